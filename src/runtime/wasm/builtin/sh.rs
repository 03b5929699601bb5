//! `sh -c 'COMMAND ARGUMENTS'`: one command in words and quotes. There is no shell here, so
//! whatever a shell would do more is refused by name.

/// What only a shell could do, outside quotes.
const SPECIAL: &str = "|&;<>()$`*?[]{}~#!\n";

/// The words of the one command in `args` (`sh -c TEXT`).
///
/// # Errors
/// What is asked for besides, in words for the one who typed it.
pub fn simple_command(args: &[String]) -> Result<Vec<String>, String> {
    let text = match args {
        [_, flag, text] if flag == "-c" => text,
        _ => {
            return Err("sh: there is no shell in a wasm container: run a command itself, or \
                        sh -c 'COMMAND ARGUMENTS'"
                .to_owned());
        }
    };
    let refused = |what: char| {
        Err(format!(
            "sh: {what:?} needs a shell, which a wasm container has not: only one command with \
             words and quotes can be run"
        ))
    };
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = text.trim().chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(end), c) if c == end => quote = None,
            (Some('"'), '$' | '`') => return refused(c),
            (Some('"') | None, '\\') => match chars.next() {
                Some(next) => word.get_or_insert_default().push(next),
                None => return Err("sh: nothing follows the last \\".to_owned()),
            },
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ' | '\t') => words.extend(word.take()),
            (None, c) if SPECIAL.contains(c) => return refused(c),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(quote) = quote {
        return Err(format!("sh: a {quote} is not closed"));
    }
    words.extend(word);
    match words.first() {
        None => Err("sh: there is no command".to_owned()),
        Some(first) if first.contains('=') => {
            Err(format!("sh: {first:?} sets a variable, which needs a shell"))
        }
        Some(_) => Ok(words),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> Result<Vec<String>, String> {
        simple_command(&["sh", "-c", text].map(str::to_owned))
    }

    #[test]
    fn one_command_is_split_as_a_shell_splits_it() {
        let table = [
            ("echo one  two", vec!["echo", "one", "two"]),
            (" echo 'a b' \"c d\"e ", vec!["echo", "a b", "c de"]),
            (r#"echo a\ b "\"" '\' ''"#, vec!["echo", "a b", "\"", "\\", ""]),
            ("cat '/data/a*b'", vec!["cat", "/data/a*b"]),
        ];
        for (text, expected) in table {
            assert_eq!(words(text).expect(text), expected, "{text}");
        }
    }

    #[test]
    fn what_needs_a_shell_is_refused_by_name() {
        for (text, named) in [
            ("echo a | cat", "'|'"),
            ("ls *", "'*'"),
            ("echo \"$HOME\"", "'$'"),
            ("A=b env", "\"A=b\""),
            ("echo 'a", "not closed"),
            ("  ", "no command"),
        ] {
            let told = words(text).expect_err(text);
            assert!(told.contains(named), "{text}: {told}");
        }
        assert!(simple_command(&["sh".to_owned()]).expect_err("no shell").contains("no shell"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,60}") {
            let _ = words(&text);
        }
    }
}
