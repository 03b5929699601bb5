//! From tokens to parts: a parser by descent, with the precedences of cel-spec.

use std::sync::Arc;

use kube_cel::cel::Value;

use super::CompileError;
use super::ast::{Binary, Expr, Node, Walk};
use super::lexer::{Token, tokens};

/// Parts lie at most so deep inside each other. (cel-go allows 250; a thread's stack does not here.)
const DEPTH_MAX: usize = 150;
/// Brackets lie at most so deep inside each other: each costs the parser a frame a precedence.
const NESTING_MAX: usize = 48;
/// An expression is at most so long, in bytes.
const SOURCE_MAX: usize = 100 * 1024;

const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "package",
    "namespace",
    "null",
    "true",
];
const RESERVED_MORE: [&str; 4] = ["return", "var", "void", "while"];

/// Reads an expression.
pub(super) fn parse(source: &str) -> Result<Node, CompileError> {
    if source.len() > SOURCE_MAX {
        let why = format!("expression code point size exceeds limit: size: {}", source.len());
        return Err(CompileError::new(source, 0, why));
    }
    let mut parser = Parser { source, tokens: tokens(source)?, next: 0, depth: 0 };
    let node = parser.either()?;
    match parser.peek() {
        Token::End => Ok(node),
        _ => Err(parser.unexpected()),
    }
}

struct Parser<'a> {
    source: &'a str,
    tokens: Vec<(usize, Token)>,
    next: usize,
    depth: usize,
}

type Parsed = Result<Node, CompileError>;

impl Parser<'_> {
    fn peek(&self) -> &Token {
        &self.tokens[self.next.min(self.tokens.len() - 1)].1
    }

    fn at(&self) -> usize {
        self.tokens[self.next.min(self.tokens.len() - 1)].0
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn wrong(&self, at: usize, what: impl Into<String>) -> CompileError {
        CompileError::new(self.source, at, what)
    }

    fn unexpected(&self) -> CompileError {
        let at = self.at();
        let shown = match self.peek() {
            Token::End => "<EOF>".to_owned(),
            _ => {
                let end = self.tokens.get(self.next + 1).map_or(self.source.len(), |t| t.0);
                self.source[at..end].trim().to_owned()
            }
        };
        self.wrong(at, format!("Syntax error: mismatched input '{shown}'"))
    }

    /// Whether the sign comes next; it is taken then.
    fn sign(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Token::Sign(next) if *next == sign);
        self.next += usize::from(found);
        found
    }

    fn need(&mut self, sign: &str) -> Result<(), CompileError> {
        if self.sign(sign) { Ok(()) } else { Err(self.unexpected()) }
    }

    fn node(&self, at: usize, expr: Expr) -> Parsed {
        let node = Node::new(at, expr);
        if node.depth > DEPTH_MAX {
            return Err(self.too_deep(at));
        }
        Ok(node)
    }

    fn too_deep(&self, at: usize) -> CompileError {
        self.wrong(at, format!("expression recursion limit exceeded: {DEPTH_MAX}"))
    }

    /// `a ? b : c`, or less. Every deeper part comes through here.
    fn either(&mut self) -> Parsed {
        self.depth += 1;
        if self.depth > NESTING_MAX {
            return Err(self.too_deep(self.at()));
        }
        let test = self.or()?;
        let at = self.at();
        let node = if self.sign("?") {
            let then = self.or()?;
            self.need(":")?;
            let other = self.either()?;
            self.node(
                at,
                Expr::Either { test: test.into(), then: then.into(), other: other.into() },
            )?
        } else {
            test
        };
        self.depth -= 1;
        Ok(node)
    }

    fn or(&mut self) -> Parsed {
        let first = self.and()?;
        let at = self.at();
        let mut all = vec![first];
        while self.sign("||") {
            all.push(self.and()?);
        }
        if all.len() == 1 {
            return Ok(all.pop().expect("one part"));
        }
        self.node(at, Expr::Or(all))
    }

    fn and(&mut self) -> Parsed {
        let first = self.relation()?;
        let at = self.at();
        let mut all = vec![first];
        while self.sign("&&") {
            all.push(self.relation()?);
        }
        if all.len() == 1 {
            return Ok(all.pop().expect("one part"));
        }
        self.node(at, Expr::And(all))
    }

    fn relation(&mut self) -> Parsed {
        let mut left = self.sum()?;
        loop {
            let at = self.at();
            let operator = match self.peek() {
                Token::Sign("==") => Binary::Equal,
                Token::Sign("!=") => Binary::NotEqual,
                Token::Sign("<") => Binary::Less,
                Token::Sign("<=") => Binary::LessEqual,
                Token::Sign(">") => Binary::Greater,
                Token::Sign(">=") => Binary::GreaterEqual,
                Token::Ident(word) if word == "in" => Binary::In,
                _ => return Ok(left),
            };
            self.next += 1;
            let right = self.sum()?;
            left = self.node(at, Expr::Binary(operator, left.into(), right.into()))?;
        }
    }

    fn sum(&mut self) -> Parsed {
        let mut left = self.product()?;
        loop {
            let at = self.at();
            let operator = match self.peek() {
                Token::Sign("+") => Binary::Add,
                Token::Sign("-") => Binary::Subtract,
                _ => return Ok(left),
            };
            self.next += 1;
            let right = self.product()?;
            left = self.node(at, Expr::Binary(operator, left.into(), right.into()))?;
        }
    }

    fn product(&mut self) -> Parsed {
        let mut left = self.unary()?;
        loop {
            let at = self.at();
            let operator = match self.peek() {
                Token::Sign("*") => Binary::Multiply,
                Token::Sign("/") => Binary::Divide,
                Token::Sign("%") => Binary::Modulo,
                _ => return Ok(left),
            };
            self.next += 1;
            let right = self.unary()?;
            left = self.node(at, Expr::Binary(operator, left.into(), right.into()))?;
        }
    }

    fn unary(&mut self) -> Parsed {
        let at = self.at();
        if self.sign("!") {
            let mut odd = true;
            while self.sign("!") {
                odd = !odd;
            }
            let of = self.member()?;
            let not = self.node(at, Expr::Not(of.into()))?;
            return if odd { Ok(not) } else { self.node(at, Expr::Not(not.into())) };
        }
        if !self.sign("-") {
            return self.member();
        }
        let literal = match self.peek() {
            Token::Int(number) => Some(Value::Int(-number)),
            Token::IntMin => Some(Value::Int(i64::MIN)),
            Token::Double(number) => Some(Value::Float(-number)),
            _ => None,
        };
        if let Some(literal) = literal {
            self.next += 1;
            let node = self.node(at, Expr::Literal(literal))?;
            return self.members(node);
        }
        let mut odd = true;
        while self.sign("-") {
            odd = !odd;
        }
        let of = self.member()?;
        let negated = self.node(at, Expr::Negate(of.into()))?;
        if odd { Ok(negated) } else { self.node(at, Expr::Negate(negated.into())) }
    }

    fn member(&mut self) -> Parsed {
        let primary = self.primary()?;
        self.members(primary)
    }

    /// Fields, indexes and methods behind a part.
    fn members(&mut self, mut node: Node) -> Parsed {
        loop {
            let at = self.at();
            if self.sign(".") {
                node = self.field(node, at)?;
            } else if self.sign(".?") {
                let Token::Ident(field) = self.take() else {
                    self.next -= 1;
                    return Err(self.unexpected());
                };
                node = self.node(at, Expr::Select { of: node.into(), field, optional: true })?;
            } else if self.sign("[") || self.sign("[?") {
                let optional = self.tokens[self.next - 1].1 == Token::Sign("[?");
                let key = self.either()?;
                self.need("]")?;
                node = self.node(at, Expr::Index { of: node.into(), key: key.into(), optional })?;
            } else {
                return Ok(node);
            }
        }
    }

    fn field(&mut self, of: Node, at: usize) -> Parsed {
        let Token::Ident(name) = self.take() else {
            self.next -= 1;
            return Err(self.unexpected());
        };
        let call = self.at();
        if self.sign("(") {
            let args = self.list(")")?;
            return self.method(call, of, name, args);
        }
        // A path of names with a brace behind it; no other brace may follow a part.
        if matches!(self.peek(), Token::Sign("{" | "{?")) && names_type(&of) {
            return self.structure(at);
        }
        self.node(at, Expr::Select { of: of.into(), field: name, optional: false })
    }

    fn list(&mut self, end: &str) -> Result<Vec<Node>, CompileError> {
        let mut all = Vec::new();
        if self.sign(end) {
            return Ok(all);
        }
        loop {
            all.push(self.either()?);
            if self.sign(end) {
                return Ok(all);
            }
            self.need(",")?;
            if self.sign(end) {
                return Ok(all);
            }
        }
    }

    fn primary(&mut self) -> Parsed {
        let at = self.at();
        match self.take() {
            Token::Int(number) => self.node(at, Expr::Literal(Value::Int(number))),
            Token::Uint(number) => self.node(at, Expr::Literal(Value::UInt(number))),
            Token::Double(number) => self.node(at, Expr::Literal(Value::Float(number))),
            Token::Text(text) => self.node(at, Expr::Literal(Value::String(Arc::new(text)))),
            Token::Bytes(bytes) => self.node(at, Expr::Literal(Value::Bytes(Arc::new(bytes)))),
            Token::IntMin => Err(self.wrong(at, "invalid int literal")),
            Token::Ident(word) => self.word(at, word),
            Token::Sign("(") => {
                let inner = self.either()?;
                self.need(")")?;
                Ok(inner)
            }
            Token::Sign("[") => self.elements(at),
            Token::Sign("[?") => {
                self.next -= 1;
                self.tokens[self.next].1 = Token::Sign("?");
                self.elements(at)
            }
            Token::Sign("{") => self.entries(at),
            Token::Sign("{?") => {
                self.next -= 1;
                self.tokens[self.next].1 = Token::Sign("?");
                self.entries(at)
            }
            // A leading dot names something at the root; there is nothing else.
            Token::Sign(".") => match self.take() {
                Token::Ident(word) => self.word(at, word),
                _ => {
                    self.next -= 1;
                    Err(self.unexpected())
                }
            },
            _ => {
                self.next -= 1;
                Err(self.unexpected())
            }
        }
    }

    fn word(&mut self, at: usize, word: String) -> Parsed {
        match word.as_str() {
            "true" => return self.node(at, Expr::Literal(Value::Bool(true))),
            "false" => return self.node(at, Expr::Literal(Value::Bool(false))),
            "null" => return self.node(at, Expr::Literal(Value::Null)),
            _ => {}
        }
        let call = self.at();
        if self.sign("(") {
            let args = self.list(")")?;
            return self.function(call, word, args);
        }
        if RESERVED.contains(&word.as_str()) || RESERVED_MORE.contains(&word.as_str()) {
            return Err(self.wrong(at, format!("Syntax error: reserved identifier: {word}")));
        }
        if matches!(self.peek(), Token::Sign("{" | "{?")) {
            return self.structure(at);
        }
        self.node(at, Expr::Ident(word))
    }

    fn elements(&mut self, at: usize) -> Parsed {
        let mut all = Vec::new();
        while !self.sign("]") {
            let optional = self.sign("?");
            all.push((self.either()?, optional));
            if !self.sign(",") {
                self.need("]")?;
                break;
            }
        }
        self.node(at, Expr::List(all))
    }

    fn entries(&mut self, at: usize) -> Parsed {
        let mut all = Vec::new();
        while !self.sign("}") {
            let optional = self.sign("?");
            let key = self.either()?;
            self.need(":")?;
            all.push((key, self.either()?, optional));
            if !self.sign(",") {
                self.need("}")?;
                break;
            }
        }
        self.node(at, Expr::Map(all))
    }

    fn structure(&mut self, at: usize) -> Parsed {
        let mut fields = Vec::new();
        let mut optional = self.sign("{?");
        if !optional {
            self.need("{")?;
        }
        while optional || !self.sign("}") {
            let optional_field = std::mem::take(&mut optional) || self.sign("?");
            let Token::Ident(field) = self.take() else {
                self.next -= 1;
                return Err(self.unexpected());
            };
            self.need(":")?;
            fields.push((field, self.either()?, optional_field));
            if !self.sign(",") {
                self.need("}")?;
                break;
            }
        }
        self.node(at, Expr::Struct { fields })
    }

    fn function(&mut self, at: usize, name: String, mut args: Vec<Node>) -> Parsed {
        if name == "has" && args.len() == 1 {
            let arg = args.pop().expect("one argument");
            return match arg.expr {
                Expr::Select { of, field, optional: false } => {
                    self.node(at, Expr::Has { of, field })
                }
                _ => Err(self.wrong(arg.at, "invalid argument to has() macro")),
            };
        }
        self.node(at, Expr::Call { name, target: None, args })
    }

    /// A name that a macro binds.
    fn bound(&self, node: &Node) -> Result<String, CompileError> {
        match &node.expr {
            Expr::Ident(name) => Ok(name.clone()),
            _ => Err(self.wrong(node.at, "argument must be a simple name")),
        }
    }

    fn method(&mut self, at: usize, target: Node, name: String, mut args: Vec<Node>) -> Parsed {
        let count = args.len();
        if name == "bind" && count == 3 && matches!(&target.expr, Expr::Ident(n) if n == "cel") {
            let body = args.pop().expect("three arguments").into();
            let value = args.pop().expect("three arguments").into();
            let name = self.bound(&args[0])?;
            return self.node(at, Expr::Bind { name, value, body });
        }
        if matches!(name.as_str(), "optMap" | "optFlatMap") && count == 2 {
            let body = args.pop().expect("two arguments").into();
            let flat = name == "optFlatMap";
            let name = self.bound(&args[0])?;
            return self.node(at, Expr::OptMap { of: target.into(), name, body, flat });
        }
        let walk = match (name.as_str(), count) {
            ("all", 2 | 3) => Walk::All,
            ("exists", 2 | 3) => Walk::Exists,
            ("exists_one" | "existsOne", 2 | 3) => Walk::ExistsOne,
            ("filter", 2) => Walk::Filter,
            ("map", 2 | 3) => Walk::Map,
            ("sortBy", 2) => Walk::SortBy,
            ("transformList", 3 | 4) => Walk::TransformList,
            ("transformMap", 3 | 4) => Walk::TransformMap,
            _ => {
                return self.node(at, Expr::Call { name, target: Some(target.into()), args });
            }
        };
        let two = match walk {
            Walk::All | Walk::Exists | Walk::ExistsOne => count == 3,
            Walk::TransformList | Walk::TransformMap => true,
            Walk::Map | Walk::Filter | Walk::SortBy => false,
        };
        let rest = args.split_off(if two { 2 } else { 1 });
        let names = args.iter().map(|arg| self.bound(arg)).collect::<Result<Vec<_>, _>>()?;
        self.node(at, Expr::Walk { walk, over: target.into(), names, args: rest })
    }
}

/// Whether a chain of names may name a type: those begin with a capital, so that a brace behind
/// anything else is a mistake.
fn names_type(node: &Node) -> bool {
    match &node.expr {
        Expr::Ident(name) => name.starts_with(|c: char| c.is_ascii_uppercase()),
        Expr::Select { of, optional: false, .. } => names_type(of),
        _ => false,
    }
}
