//! From text to tokens (cel-spec, "Syntax").

use super::CompileError;

/// A token.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Ident(String),
    Int(i64),
    /// The magnitude of the smallest number, which is only there with a minus before it.
    IntMin,
    Uint(u64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// Operators and brackets.
    Sign(&'static str),
    End,
}

const SIGNS: [&str; 29] = [
    "==", "!=", "<=", ">=", "&&", "||", ".?", "[?", "{?", "<", ">", "!", "-", "+", "*", "/", "%",
    "(", ")", "[", "]", "{", "}", ".", ",", ":", "?", "=", "&",
];

struct Lexer<'a> {
    source: &'a str,
    at: usize,
}

/// The tokens of a source, each with the byte at which it stands.
pub(super) fn tokens(source: &str) -> Result<Vec<(usize, Token)>, CompileError> {
    let mut lexer = Lexer { source, at: 0 };
    let mut all = Vec::new();
    loop {
        lexer.skip();
        let at = lexer.at;
        let token = lexer.next()?;
        let end = token == Token::End;
        all.push((at, token));
        if end {
            return Ok(all);
        }
    }
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.source[self.at..]
    }

    fn wrong(&self, at: usize, what: impl Into<String>) -> CompileError {
        CompileError::new(self.source, at, format!("Syntax error: {}", what.into()))
    }

    fn skip(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            let mut skipped = rest.len() - trimmed.len();
            if trimmed.starts_with("//") {
                skipped += trimmed.find('\n').unwrap_or(trimmed.len());
            }
            if skipped == 0 {
                return;
            }
            self.at += skipped;
        }
    }

    fn next(&mut self) -> Result<Token, CompileError> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(Token::End) };
        if let Some(found) = self.text()? {
            return Ok(found);
        }
        let rest = self.rest();
        let after_dot = rest.strip_prefix('.').and_then(|r| r.chars().next());
        if first.is_ascii_digit() || after_dot.is_some_and(|c| c.is_ascii_digit()) {
            return self.number();
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let word = rest[..end.unwrap_or(rest.len())].to_owned();
            self.at += word.len();
            return Ok(Token::Ident(word));
        }
        if first == '`' {
            let Some(end) = rest[1..].find('`') else {
                return Err(self.wrong(self.at, "token recognition error at: '`'"));
            };
            let word = rest[1..=end].to_owned();
            self.at += end + 2;
            return Ok(Token::Ident(word));
        }
        match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            Some(sign) if !matches!(*sign, "&" | "=") => {
                self.at += sign.len();
                Ok(Token::Sign(sign))
            }
            _ => Err(self.wrong(self.at, format!("token recognition error at: '{first}'"))),
        }
    }

    fn number(&mut self) -> Result<Token, CompileError> {
        let start = self.at;
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let hexadecimal = rest.starts_with("0x") || rest.starts_with("0X");
        let mut end = if hexadecimal { 2 } else { 0 };
        let mut double = false;
        while let Some(&byte) = bytes.get(end) {
            let digit = if hexadecimal { byte.is_ascii_hexdigit() } else { byte.is_ascii_digit() };
            let point = byte == b'.' && bytes.get(end + 1).is_some_and(u8::is_ascii_digit);
            let exponent = matches!(byte, b'e' | b'E');
            if digit {
                end += 1;
            } else if !hexadecimal && point && !double {
                double = true;
                end += 1;
            } else if !hexadecimal && exponent {
                double = true;
                end += 1;
                end += usize::from(matches!(bytes.get(end), Some(b'+' | b'-')));
            } else {
                break;
            }
        }
        let digits = &rest[..end];
        let unsigned = matches!(bytes.get(end), Some(b'u' | b'U')) && !double;
        let (radix, plain) = if hexadecimal { (16, &digits[2..]) } else { (10, digits) };
        let token = if double {
            digits.parse().ok().map(Token::Double)
        } else if unsigned {
            u64::from_str_radix(plain, radix).ok().map(Token::Uint)
        } else {
            match i64::from_str_radix(plain, radix) {
                Ok(number) => Some(Token::Int(number)),
                Err(_) if u64::from_str_radix(plain, radix) == Ok(1 << 63) => Some(Token::IntMin),
                Err(_) => None,
            }
        };
        self.at += end + usize::from(unsigned);
        token.ok_or_else(|| CompileError::new(self.source, start, "invalid int literal"))
    }

    /// A string or bytes, where one begins here.
    fn text(&mut self) -> Result<Option<Token>, CompileError> {
        let rest = self.rest();
        let prefix = rest.len() - rest.trim_start_matches(['r', 'R', 'b', 'B']).len();
        let quoted = rest[prefix..].chars().next().filter(|c| matches!(c, '"' | '\''));
        let (Some(quote), true) = (quoted, prefix <= 2) else { return Ok(None) };
        let marks = rest[..prefix].to_ascii_lowercase();
        let (raw, bytes) = (marks.contains('r'), marks.contains('b'));
        if marks == "rr" || marks == "bb" {
            return Ok(None);
        }
        let start = self.at;
        let triple: String = std::iter::repeat_n(quote, 3).collect();
        let long = rest[prefix..].starts_with(&triple);
        let fence = if long { triple } else { quote.to_string() };
        let mut out: Vec<u8> = Vec::new();
        let mut at = start + prefix + fence.len();
        loop {
            let rest = &self.source[at..];
            if rest.starts_with(&fence) {
                self.at = at + fence.len();
                break;
            }
            let Some(next) = rest.chars().next().filter(|c| long || *c != '\n') else {
                return Err(self.wrong(start, format!("token recognition error at: '{quote}'")));
            };
            if next == '\\' && !raw {
                at += self.escape(at, bytes, &mut out)?;
                continue;
            }
            out.extend_from_slice(next.encode_utf8(&mut [0; 4]).as_bytes());
            at += next.len_utf8();
        }
        if bytes {
            return Ok(Some(Token::Bytes(out)));
        }
        Ok(Some(Token::Text(String::from_utf8_lossy(&out).into_owned())))
    }

    /// An escape at byte `at`; answers its length.
    fn escape(&self, at: usize, bytes: bool, out: &mut Vec<u8>) -> Result<usize, CompileError> {
        let rest = &self.source[at + 1..];
        let kind = rest.chars().next().unwrap_or_default();
        let simple = match kind {
            'a' => Some(7),
            'b' => Some(8),
            'f' => Some(12),
            'n' => Some(10),
            'r' => Some(13),
            't' => Some(9),
            'v' => Some(11),
            '\\' | '?' | '"' | '\'' | '`' => u8::try_from(kind).ok(),
            _ => None,
        };
        if let Some(byte) = simple {
            out.push(byte);
            return Ok(2);
        }
        let (skip, digits, radix) = match kind {
            'x' | 'X' => (1, 2, 16),
            'u' => (1, 4, 16),
            'U' => (1, 8, 16),
            '0'..='3' => (0, 3, 8),
            _ => return Err(self.wrong(at, "invalid escape sequence")),
        };
        let number = rest.get(skip..skip + digits).and_then(|d| u32::from_str_radix(d, radix).ok());
        let invalid = || self.wrong(at, "invalid escape sequence");
        let number = number.ok_or_else(invalid)?;
        if bytes && digits <= 3 {
            out.push(u8::try_from(number).map_err(|_| invalid())?);
        } else {
            let character = char::from_u32(number).ok_or_else(invalid)?;
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Ok(1 + skip + digits)
    }
}
