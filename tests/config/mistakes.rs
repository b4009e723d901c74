//! What is said of each mistake, word for word.

use oncegate::config::error::Colour;
use oncegate::config::{self, Environment, Flags};

use crate::Directory;

/// The error lines of a text.
fn refuse(text: &str) -> Vec<String> {
    match config::load_text("o.toml", text, &Environment::new(), &Flags::default()) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.to_string().lines().map(str::to_owned).collect(),
    }
}

#[test]
fn show() {
    for text in std::fs::read_to_string("/tmp/mistakes.txt").unwrap().split("\n---\n") {
        println!("{text}\n    => {}", refuse(text).join("\n    => "));
    }
    let errors = config::load_text(
        "o.toml",
        "[[rule]]\nname='x'\n[proxy]\nlisten = ['a']",
        &Environment::new(),
        &Flags::default(),
    )
    .unwrap_err();
    println!("{}", errors.render(Colour::Off));
}
