//! Which functions there are, and for what: one line an overload. `A` and `B` stand for any type,
//! the same throughout a line.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use super::Type;

const LINES: &str = "
bool(bool) bool
bool(string) bool
bytes(string) bytes
bytes(bytes) bytes
double(int) double
double(uint) double
double(double) double
double(string) double
duration(string) duration
duration(duration) duration
dyn(A) dyn
int(int) int
int(uint) int
int(double) int
int(string) int
int(timestamp) int
string(A) string
timestamp(string) timestamp
timestamp(timestamp) timestamp
timestamp(int) timestamp
type(A) type
uint(int) uint
uint(uint) uint
uint(double) uint
uint(string) uint
size(string) int
size(bytes) int
size(list(A)) int
size(map(A,B)) int
string.size() int
bytes.size() int
list(A).size() int
map(A,B).size() int
string.contains(string) bool
string.startsWith(string) bool
string.endsWith(string) bool
string.matches(string) bool
matches(string,string) bool
string.find(string) string
string.findAll(string) list(string)
string.findAll(string,int) list(string)
string.charAt(int) string
string.indexOf(string) int
string.indexOf(string,int) int
string.lastIndexOf(string) int
string.lastIndexOf(string,int) int
string.lowerAscii() string
string.upperAscii() string
string.replace(string,string) string
string.replace(string,string,int) string
string.reverse() string
string.split(string) list(string)
string.split(string,int) list(string)
string.substring(int) string
string.substring(int,int) string
string.trim() string
string.format(list(A)) string
strings.quote(string) string
list(string).join() string
list(string).join(string) string
list(A).isSorted() bool
list(A).sum() A
list(A).min() A
list(A).max() A
list(A).indexOf(A) int
list(A).lastIndexOf(A) int
list(A).slice(int,int) list(A)
list(A).sort() list(A)
list(A).distinct() list(A)
list(A).reverse() list(A)
list(A).flatten() list(dyn)
list(A).flatten(int) list(dyn)
list(A).first() optional(A)
list(A).last() optional(A)
lists.range(int) list(int)
sets.contains(list(A),list(A)) bool
sets.equivalent(list(A),list(A)) bool
sets.intersects(list(A),list(A)) bool
math.ceil(double) double
math.floor(double) double
math.round(double) double
math.trunc(double) double
math.abs(A) A
math.sign(A) A
math.isInf(double) bool
math.isNaN(double) bool
math.isFinite(double) bool
math.bitAnd(A,A) A
math.bitOr(A,A) A
math.bitXor(A,A) A
math.bitNot(A) A
math.bitShiftLeft(A,int) A
math.bitShiftRight(A,int) A
math.sqrt(A) double
math.greatest(A) dyn
math.greatest(A,B) dyn
math.greatest(A,B,dyn) dyn
math.least(A) dyn
math.least(A,B) dyn
math.least(A,B,dyn) dyn
base64.decode(string) bytes
base64.encode(bytes) string
optional.none() optional(dyn)
optional.of(A) optional(A)
optional.ofNonZeroValue(A) optional(A)
optional(A).hasValue() bool
optional(A).value() A
optional(A).or(optional(A)) optional(A)
optional(A).orValue(A) A
url(string) URL
isURL(string) bool
URL.getScheme() string
URL.getHost() string
URL.getHostname() string
URL.getPort() string
URL.getEscapedPath() string
URL.getQuery() map(string,list(string))
ip(string) IP
isIP(string) bool
ip.isCanonical(string) bool
IP.family() int
IP.isLoopback() bool
IP.isUnspecified() bool
IP.isLinkLocalMulticast() bool
IP.isLinkLocalUnicast() bool
IP.isGlobalUnicast() bool
string(IP) string
cidr(string) CIDR
isCIDR(string) bool
CIDR.containsIP(string) bool
CIDR.containsIP(IP) bool
CIDR.containsCIDR(string) bool
CIDR.containsCIDR(CIDR) bool
CIDR.prefixLength() int
CIDR.masked() CIDR
CIDR.ip() IP
quantity(string) Quantity
isQuantity(string) bool
Quantity.isInteger() bool
Quantity.asInteger() int
Quantity.asApproximateFloat() double
Quantity.sign() int
Quantity.add(Quantity) Quantity
Quantity.add(int) Quantity
Quantity.sub(Quantity) Quantity
Quantity.sub(int) Quantity
Quantity.isGreaterThan(Quantity) bool
Quantity.isLessThan(Quantity) bool
Quantity.compareTo(Quantity) int
semver(string) Semver
semver(string,bool) Semver
isSemver(string) bool
isSemver(string,bool) bool
Semver.major() int
Semver.minor() int
Semver.patch() int
Semver.isGreaterThan(Semver) bool
Semver.isLessThan(Semver) bool
Semver.compareTo(Semver) int
format.dns1123Label() NamedFormat
format.dns1123Subdomain() NamedFormat
format.dns1035Label() NamedFormat
format.qualifiedName() NamedFormat
format.dns1123LabelPrefix() NamedFormat
format.dns1123SubdomainPrefix() NamedFormat
format.dns1035LabelPrefix() NamedFormat
format.labelValue() NamedFormat
format.uri() NamedFormat
format.uuid() NamedFormat
format.byte() NamedFormat
format.date() NamedFormat
format.datetime() NamedFormat
format.named(string) optional(NamedFormat)
NamedFormat.validate(string) optional(list(string))
jsonpatch.escapeKey(string) string
timestamp.getFullYear() int
timestamp.getFullYear(string) int
timestamp.getMonth() int
timestamp.getMonth(string) int
timestamp.getDate() int
timestamp.getDate(string) int
timestamp.getDayOfMonth() int
timestamp.getDayOfMonth(string) int
timestamp.getDayOfWeek() int
timestamp.getDayOfWeek(string) int
timestamp.getDayOfYear() int
timestamp.getDayOfYear(string) int
timestamp.getHours() int
timestamp.getHours(string) int
timestamp.getMinutes() int
timestamp.getMinutes(string) int
timestamp.getSeconds() int
timestamp.getSeconds(string) int
timestamp.getMilliseconds() int
duration.getHours() int
duration.getMinutes() int
duration.getSeconds() int
duration.getMilliseconds() int
Authorizer.path(string) PathCheck
Authorizer.group(string) GroupCheck
Authorizer.serviceAccount(string,string) Authorizer
PathCheck.check(string) AuthzDecision
GroupCheck.resource(string) ResourceCheck
ResourceCheck.subresource(string) ResourceCheck
ResourceCheck.namespace(string) ResourceCheck
ResourceCheck.name(string) ResourceCheck
ResourceCheck.fieldSelector(string) ResourceCheck
ResourceCheck.labelSelector(string) ResourceCheck
ResourceCheck.check(string) AuthzDecision
AuthzDecision.allowed() bool
AuthzDecision.reason() string
AuthzDecision.errored() bool
AuthzDecision.error() string
";

/// A type in a line.
#[derive(Debug, Clone)]
enum Pattern {
    /// `A` or `B`.
    Any(usize),
    Is(Type),
    List(Box<Pattern>),
    Map(Box<Pattern>, Box<Pattern>),
    Optional(Box<Pattern>),
}

/// One overload.
#[derive(Debug)]
struct Overload {
    target: Option<Pattern>,
    args: Vec<Pattern>,
    answer: Pattern,
}

/// Overloads by name; what is no method carries what stands before its dot (`math.abs`).
static TABLE: LazyLock<HashMap<&'static str, Vec<Overload>>> = LazyLock::new(|| {
    let mut table: HashMap<&'static str, Vec<Overload>> = HashMap::new();
    for line in LINES.lines().filter(|line| !line.is_empty()) {
        let (name, overload) = read(line);
        table.entry(name).or_default().push(overload);
    }
    table
});

fn read(line: &'static str) -> (&'static str, Overload) {
    let (call, answer) = line.rsplit_once(' ').expect("a line has an answer");
    let open = call_bracket(call);
    let (head, args) = (&call[..open], &call[open + 1..call.len() - 1]);
    let (target, name) = match head.rsplit_once('.') {
        Some((space, _)) if super::eval::NAMESPACES.contains(&space) && !is_type(space) => {
            (None, head)
        }
        Some((target, name)) => (Some(pattern(target)), name),
        None => (None, head),
    };
    let args = split(args).into_iter().map(pattern).collect();
    (name, Overload { target, args, answer: pattern(answer) })
}

/// `optional` with something in brackets is a type; alone it stands before functions.
fn is_type(space: &str) -> bool {
    space.contains('(')
}

/// Where the arguments begin: the last bracket at the outermost level.
fn call_bracket(call: &str) -> usize {
    let mut depth = 0;
    for (at, byte) in call.bytes().enumerate().rev() {
        match byte {
            b')' => depth += 1,
            b'(' => {
                depth -= 1;
                if depth == 0 {
                    return at;
                }
            }
            _ => {}
        }
    }
    0
}

fn split(args: &'static str) -> Vec<&'static str> {
    let (mut depth, mut start, mut all) = (0, 0, Vec::new());
    for (at, byte) in args.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b',' if depth == 0 => {
                all.push(&args[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !args.is_empty() {
        all.push(&args[start..]);
    }
    all
}

fn pattern(text: &'static str) -> Pattern {
    let inside = |head: &str| -> Vec<Pattern> {
        split(&text[head.len() + 1..text.len() - 1]).into_iter().map(pattern).collect()
    };
    match text {
        "A" => Pattern::Any(0),
        "B" => Pattern::Any(1),
        "bool" => Pattern::Is(Type::Bool),
        "int" => Pattern::Is(Type::Int),
        "uint" => Pattern::Is(Type::Uint),
        "double" => Pattern::Is(Type::Double),
        "string" => Pattern::Is(Type::String),
        "bytes" => Pattern::Is(Type::Bytes),
        "timestamp" => Pattern::Is(Type::Timestamp),
        "duration" => Pattern::Is(Type::Duration),
        "dyn" => Pattern::Is(Type::Dyn),
        "type" => Pattern::Is(Type::Type),
        _ if text.starts_with("list(") => {
            Pattern::List(Box::new(inside("list").pop().expect("one inside")))
        }
        _ if text.starts_with("optional(") => {
            Pattern::Optional(Box::new(inside("optional").pop().expect("one inside")))
        }
        _ if text.starts_with("map(") => {
            let mut inner = inside("map");
            let value = inner.pop().expect("two inside");
            Pattern::Map(Box::new(inner.pop().expect("two inside")), Box::new(value))
        }
        _ => Pattern::Is(Type::Opaque(text)),
    }
}

impl Pattern {
    fn takes(&self, found: &Type, bound: &mut [Option<Type>; 2]) -> bool {
        match (self, found) {
            (_, Type::Dyn) => true,
            (Self::Any(index), _) => match &bound[*index] {
                Some(before) => found.fits(before) || before.fits(found),
                None => {
                    bound[*index] = Some(found.clone());
                    true
                }
            },
            (Self::Is(wanted), _) => found.fits(wanted),
            (Self::List(inner), Type::List(of)) | (Self::Optional(inner), Type::Optional(of)) => {
                inner.takes(of, bound)
            }
            (Self::Map(key, value), Type::Map(a, b)) => {
                key.takes(a, bound) && value.takes(b, bound)
            }
            // Objects are maps of their fields, for what asks how many there are.
            (Self::Map(..), Type::Object(_)) => true,
            _ => false,
        }
    }

    fn answer(&self, bound: &[Option<Type>; 2]) -> Type {
        match self {
            Self::Any(index) => bound[*index].clone().unwrap_or(Type::Dyn),
            Self::Is(of) => of.clone(),
            Self::List(inner) => Type::list(inner.answer(bound)),
            Self::Optional(inner) => Type::Optional(Arc::new(inner.answer(bound))),
            Self::Map(key, value) => {
                Type::Map(Arc::new(key.answer(bound)), Arc::new(value.answer(bound)))
            }
        }
    }
}

/// What the call of a function answers.
pub(super) enum Found {
    Answer(Type),
    NoOverload,
    NoFunction,
}

/// Finds the overload for a call.
pub(super) fn find(name: &str, target: Option<&Type>, args: &[Type]) -> Found {
    let Some(overloads) = TABLE.get(name) else { return Found::NoFunction };
    for overload in overloads {
        let mut bound = [None, None];
        let fits = match (&overload.target, target) {
            (None, None) => true,
            (Some(pattern), Some(target)) => pattern.takes(target, &mut bound),
            _ => false,
        };
        let fits = fits
            && overload.args.len() == args.len()
            && overload.args.iter().zip(args).all(|(p, arg)| p.takes(arg, &mut bound));
        if fits {
            let unsure = target.is_some_and(Type::is_dyn) && overloads.len() > 1;
            let answer = overload.answer.answer(&bound);
            let same = |other: &Overload| {
                other.answer.answer(&[None, None]).to_string() == answer.to_string()
            };
            // A target of unknown type may be another overload's.
            return Found::Answer(if unsure && !overloads.iter().all(same) {
                Type::Dyn
            } else {
                answer
            });
        }
    }
    Found::NoOverload
}
