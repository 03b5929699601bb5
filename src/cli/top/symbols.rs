//! The characters that the view is drawn with: more than ASCII only where the locale says that the
//! terminal knows them.

use ratatui::symbols::border;

/// One set of characters.
#[derive(Debug)]
pub struct Symbols {
    pub border: border::Set<'static>,
    pub pending: &'static str,
    pub starting: &'static str,
    pub ready: &'static str,
    pub not_ready: &'static str,
    pub terminating: &'static str,
    pub succeeded: &'static str,
    pub failed: &'static str,
    pub cursor: &'static str,
    pub restarts: &'static str,
    pub separator: &'static str,
    pub ellipsis: &'static str,
    pub warning: &'static str,
}

pub const UNICODE: Symbols = Symbols {
    border: border::ROUNDED,
    pending: "○",
    starting: "◐",
    ready: "●",
    not_ready: "◍",
    terminating: "◌",
    succeeded: "✓",
    failed: "✗",
    cursor: "▸",
    restarts: "↻",
    separator: "  ·  ",
    ellipsis: "…",
    warning: "▲",
};

pub const ASCII: Symbols = Symbols {
    border: border::Set {
        top_left: "+",
        top_right: "+",
        bottom_left: "+",
        bottom_right: "+",
        vertical_left: "|",
        vertical_right: "|",
        horizontal_top: "-",
        horizontal_bottom: "-",
    },
    pending: ".",
    starting: "o",
    ready: "*",
    not_ready: "?",
    terminating: "-",
    succeeded: "=",
    failed: "x",
    cursor: ">",
    restarts: "restarts:",
    separator: "  |  ",
    ellipsis: "~",
    warning: "!",
};

/// The set for a locale, as the variables `LC_ALL`, `LC_CTYPE` and `LANG` name it: the first that
/// is set and not empty counts.
pub fn for_locale(variables: [Option<String>; 3]) -> &'static Symbols {
    let locale = variables.into_iter().flatten().find(|value| !value.is_empty());
    let locale = locale.unwrap_or_default().to_uppercase();
    if locale.contains("UTF-8") || locale.contains("UTF8") { &UNICODE } else { &ASCII }
}

/// The set for this process.
pub fn of_environment() -> &'static Symbols {
    for_locale(["LC_ALL", "LC_CTYPE", "LANG"].map(|name| std::env::var(name).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_ascii_only_where_the_locale_has_it() {
        let ready = |all: &str, lang: &str| {
            for_locale([Some(all.to_owned()), None, Some(lang.to_owned())]).ready
        };
        assert_eq!(ready("", "en_US.UTF-8"), UNICODE.ready);
        assert_eq!(ready("C", "en_US.UTF-8"), ASCII.ready);
        assert_eq!(ready("", "de_DE.ISO-8859-1"), ASCII.ready);
        assert_eq!(ready("C.utf8", ""), UNICODE.ready);
        assert_eq!(for_locale([None, None, None]).ready, ASCII.ready);
    }
}
