//! `test`: whether there is a file, and which; whether texts are the same.

use super::{Console, Tree};

/// Answers 0 for yes, 1 for no, 2 for what it does not understand.
pub fn run(args: &[String], tree: &Tree, console: &Console) -> i32 {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match holds(&words, tree) {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(problem) => {
            console.complain(&format!("test: {problem}"));
            2
        }
    }
}

fn holds(words: &[&str], tree: &Tree) -> Result<bool, String> {
    match words {
        [] => Ok(false),
        [one] => Ok(!one.is_empty()),
        ["!", rest @ ..] => holds(rest, tree).map(|yes| !yes),
        ["-n", text] => Ok(!text.is_empty()),
        ["-z", text] => Ok(text.is_empty()),
        [flag, path] => {
            let link = *flag == "-L" || *flag == "-h";
            let found = if link { tree.symlink_metadata(path) } else { tree.metadata(path) };
            let found = found.ok();
            match *flag {
                "-e" => Ok(found.is_some()),
                "-d" => Ok(found.is_some_and(|meta| meta.is_dir())),
                "-f" => Ok(found.is_some_and(|meta| meta.is_file())),
                "-s" => Ok(found.is_some_and(|meta| meta.len() > 0)),
                "-L" | "-h" => Ok(found.is_some_and(|meta| meta.is_symlink())),
                "-r" | "-x" => Ok(found.is_some()),
                "-w" => Ok(found.is_some() && tree.is_writable(path)),
                _ => Err(format!("{flag}: unknown condition")),
            }
        }
        [a, "=" | "==", b] => Ok(a == b),
        [a, "!=", b] => Ok(a != b),
        _ => Err("too many arguments".to_owned()),
    }
}
