//! `docs/support.md` promises nothing that cannot be looked up: every test and
//! function that it names exists.

use super::source::{files, read};

/// `folder/file.rs::name`, or `file.rs::name` for the tests of libmig.
fn references(text: &str) -> Vec<(&str, &str)> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|quoted| quoted.split_once(".rs::"))
        .collect()
}

#[test]
fn what_the_table_of_support_names_exists() {
    let table = read("docs/support.md").lines.join("\n");
    let named = references(&table);
    assert!(named.len() > 100, "the table has lost its references");
    let sources = files();
    let missing: Vec<String> = named
        .into_iter()
        .filter(|(path, name)| {
            let path = match path.contains('/') {
                true => format!("/{path}.rs"),
                false => format!("/libmig/tests/{path}.rs"),
            };
            let declared = format!("fn {name}");
            !sources.iter().any(|file| {
                format!("/{}", file.path).ends_with(&path)
                    && file.lines.iter().any(|line| declares(line, &declared))
            })
        })
        .map(|(path, name)| format!("{path}.rs::{name}"))
        .collect();
    assert!(missing.is_empty(), "not there: {missing:#?}");
}

/// Whether a line declares just this function, not one with a longer name.
fn declares(line: &str, declared: &str) -> bool {
    line.split_once(declared)
        .is_some_and(|(_, rest)| rest.starts_with(['(', '<']))
}

#[test]
fn references_are_found_between_backticks() {
    let text = "| a | `x/y.rs::f`, no test | `mig why` `z.rs::g` |";
    assert_eq!(references(text), [("x/y", "f"), ("z", "g")]);
    assert!(declares("    fn f<T>() {", "fn f") && !declares("fn fg() {", "fn f"));
}
