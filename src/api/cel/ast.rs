//! The parts of an expression. Macros are parts of their own: what is evaluated is what was
//! written.

use kube_cel::cel::Value;

/// A part, with the byte at which it stands.
#[derive(Debug)]
pub struct Node {
    pub(super) at: usize,
    /// How many parts lie inside each other below it.
    pub(super) depth: usize,
    pub(super) expr: Expr,
}

/// An operator between two parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

impl Binary {
    /// As messages name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Equal => "_==_",
            Self::NotEqual => "_!=_",
            Self::Less => "_<_",
            Self::LessEqual => "_<=_",
            Self::Greater => "_>_",
            Self::GreaterEqual => "_>=_",
            Self::In => "@in",
            Self::Add => "_+_",
            Self::Subtract => "_-_",
            Self::Multiply => "_*_",
            Self::Divide => "_/_",
            Self::Modulo => "_%_",
        }
    }
}

/// A macro that walks along a list or a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    All,
    Exists,
    ExistsOne,
    /// With a filter before it where there are two arguments.
    Map,
    Filter,
    SortBy,
    TransformList,
    TransformMap,
}

/// What a part is.
#[derive(Debug)]
pub enum Expr {
    Literal(Value),
    Ident(String),
    /// `a.b`; optional: `a.?b`.
    Select {
        of: Box<Node>,
        field: String,
        optional: bool,
    },
    /// `has(a.b)`.
    Has {
        of: Box<Node>,
        field: String,
    },
    /// `a[b]`; optional: `a[?b]`.
    Index {
        of: Box<Node>,
        key: Box<Node>,
        optional: bool,
    },
    Call {
        name: String,
        target: Option<Box<Node>>,
        args: Vec<Node>,
    },
    Not(Box<Node>),
    Negate(Box<Node>),
    Binary(Binary, Box<Node>, Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
    Either {
        test: Box<Node>,
        then: Box<Node>,
        other: Box<Node>,
    },
    /// Elements, with whether they are optional.
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    /// `Object.spec{replicas: 1}`.
    Struct {
        fields: Vec<(String, Node, bool)>,
    },
    Walk {
        walk: Walk,
        over: Box<Node>,
        names: Vec<String>,
        args: Vec<Node>,
    },
    /// `cel.bind(name, value, body)`.
    Bind {
        name: String,
        value: Box<Node>,
        body: Box<Node>,
    },
    /// `optional.optMap(name, body)`; flat: the body is an optional itself.
    OptMap {
        of: Box<Node>,
        name: String,
        body: Box<Node>,
        flat: bool,
    },
}

impl Node {
    pub(super) fn new(at: usize, expr: Expr) -> Self {
        let mut deepest = 0;
        expr.each(&mut |child| deepest = deepest.max(child.depth));
        Self { at, depth: deepest + 1, expr }
    }

    pub(super) fn names(&self, variable: &str) -> bool {
        if matches!(&self.expr, Expr::Ident(name) if name == variable) {
            return true;
        }
        let mut found = false;
        self.expr.each(&mut |child| found = found || child.names(variable));
        found
    }
}

impl Expr {
    /// Every part right below.
    fn each(&self, see: &mut dyn FnMut(&Node)) {
        match self {
            Self::Literal(_) | Self::Ident(_) => {}
            Self::Select { of, .. } | Self::Has { of, .. } | Self::Not(of) | Self::Negate(of) => {
                see(of);
            }
            Self::Index { of, key, .. } => {
                see(of);
                see(key);
            }
            Self::Call { target, args, .. } => {
                target.iter().for_each(|target| see(target));
                args.iter().for_each(see);
            }
            Self::Binary(_, left, right) => {
                see(left);
                see(right);
            }
            Self::And(all) | Self::Or(all) => all.iter().for_each(see),
            Self::Either { test, then, other } => {
                see(test);
                see(then);
                see(other);
            }
            Self::List(items) => items.iter().for_each(|(item, _)| see(item)),
            Self::Map(entries) => entries.iter().for_each(|(key, value, _)| {
                see(key);
                see(value);
            }),
            Self::Struct { fields, .. } => fields.iter().for_each(|(_, value, _)| see(value)),
            Self::Walk { over, args, .. } => {
                see(over);
                args.iter().for_each(see);
            }
            Self::Bind { value, body, .. } => {
                see(value);
                see(body);
            }
            Self::OptMap { of, body, .. } => {
                see(of);
                see(body);
            }
        }
    }
}
