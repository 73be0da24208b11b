//! The Rust files of this workspace as lines of text.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// One Rust file.
pub(crate) struct File {
    /// Relative to the workspace, with slashes.
    pub(crate) path: String,
    /// As they are, without line ends.
    pub(crate) lines: Vec<String>,
}

/// Every Rust file of the members of the workspace.
pub(crate) fn files() -> Vec<File> {
    let mut paths = Vec::new();
    for member in ["libmig", "migd", "mig-cli", "tests", "benches"] {
        walk(&root().join(member), &mut paths);
    }
    paths.sort();
    let relative = |path: &PathBuf| {
        let path = path.strip_prefix(root()).expect("found below the root");
        path.to_str()
            .expect("names of this tree are ASCII")
            .to_owned()
    };
    paths.iter().map(|path| read(&relative(path))).collect()
}

/// One file, by its path in the workspace.
pub(crate) fn read(path: &str) -> File {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    File {
        path: path.to_owned(),
        lines: text.lines().map(str::to_owned).collect(),
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace")
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the workspace") {
        let path = entry.expect("a folder of the workspace").path();
        if path.is_dir() && !path.ends_with("target") {
            walk(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
}

impl File {
    /// The first component below `prefix`: a folder, or a file of that name.
    pub(crate) fn room(&self, prefix: &str) -> Option<&str> {
        let below = self.path.strip_prefix(prefix)?;
        let first = below.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first))
    }

    /// The names that follow `prefix` (`crate::`), also those in braces, with
    /// the number of the line where the prefix stands.
    pub(crate) fn paths_after(&self, prefix: &str) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for number in 1..=self.lines.len() {
            for (at, _) in self.code(number).match_indices(prefix) {
                let rest = self.code(number)[at + prefix.len()..].to_owned();
                if rest.starts_with('{') {
                    let group = self.group(number, &rest);
                    found.extend(group.into_iter().map(|name| (number, name)));
                } else {
                    found.push((number, first_name(&rest)));
                }
            }
        }
        found
    }

    /// First names of the members of a group that opens in `rest`, the end of
    /// line `number`, and may go on over many lines.
    fn group(&self, number: usize, rest: &str) -> Vec<String> {
        let mut text = rest.to_owned();
        for line in number + 1..=self.lines.len() {
            text.push_str(self.code(line));
        }
        let (mut depth, mut names) = (0, Vec::new());
        for (at, c) in text.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 1 && matches!(c, '{' | ',') {
                names.push(first_name(text[at + 1..].trim_start()));
            }
            if depth == 0 {
                break;
            }
        }
        names.retain(|name| !name.is_empty());
        names
    }

    /// Lines of code in which `word` stands by itself.
    pub(crate) fn lines_with_word(&self, word: &str) -> Vec<(usize, String)> {
        let part = |c: char| c.is_alphanumeric() || c == '_';
        self.lines_where(|code| code.split(|c| !part(c)).any(|found| found == word))
    }

    /// Lines of code that contain `text`.
    pub(crate) fn lines_containing(&self, text: &str) -> Vec<(usize, String)> {
        self.lines_where(|code| code.contains(text))
    }

    /// Lines that contain `text`, comments included.
    pub(crate) fn raw_lines_containing(&self, text: &str) -> Vec<(usize, String)> {
        let numbered = self.lines.iter().enumerate();
        numbered
            .filter(|(_, line)| line.contains(text))
            .map(|(index, line)| (index + 1, line.clone()))
            .collect()
    }

    /// Whether the whole file is tests: `tests.rs`, or below a member's `tests/`.
    pub(crate) fn is_a_test(&self) -> bool {
        self.path.ends_with("tests.rs") || self.path.contains("/tests/")
    }

    /// How many lines come before the tests that stand in the same file.
    pub(crate) fn lines_without_tests(&self) -> usize {
        let tests = |pair: &[String]| pair[0] == "#[cfg(test)]" && pair[1].ends_with('{');
        let before = self.lines.windows(2).position(tests);
        before.unwrap_or(self.lines.len())
    }

    fn lines_where(&self, breaks: impl Fn(&str) -> bool) -> Vec<(usize, String)> {
        (1..=self.lines.len())
            .filter(|number| breaks(self.code(*number)))
            .map(|number| (number, self.lines[number - 1].clone()))
            .collect()
    }

    /// A line, counted from 1, without its comment. A string with two slashes
    /// ends there too: nothing that is looked for stands behind one.
    fn code(&self, number: usize) -> &str {
        let line = &self.lines[number - 1];
        line.find("//").map_or(line, |at| &line[..at])
    }
}

fn first_name(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> File {
        File {
            path: "libmig/src/capture/memory.rs".into(),
            lines: text.lines().map(str::to_owned).collect(),
        }
    }

    #[test]
    fn arrows_are_found_in_every_spelling() {
        let file = file(
            "use crate::{\n    api::{A, B}, // crate::no\n    image,\n};\nlet x = crate::sys::y();",
        );
        let names: Vec<_> = file
            .paths_after("crate::")
            .into_iter()
            .map(|(_, n)| n)
            .collect();
        assert_eq!(names, ["api", "image", "sys"]);
    }

    #[test]
    fn words_are_whole_and_comments_are_not_code() {
        let file = file("#![deny(unsafe_code)]\n// unsafe\nunsafe { f() }");
        assert_eq!(
            file.lines_with_word("unsafe"),
            [(3, "unsafe { f() }".to_owned())]
        );
        assert_eq!(file.room("libmig/src/"), Some("capture"));
    }

    #[test]
    fn tests_in_the_file_do_not_make_it_long() {
        assert_eq!(
            file("a\nb\n#[cfg(test)]\nmod tests {\n}").lines_without_tests(),
            2
        );
        assert_eq!(file("a\n#[cfg(test)]\nmod tests;").lines_without_tests(), 3);
    }
}
