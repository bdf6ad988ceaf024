//! For tests: texts with the characters that mean something to somebody.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

pub(crate) fn awkward_text() -> impl Strategy<Value = String> {
    let without_form = prop::sample::select(vec!['\n', '\t', '\0', '\u{85}']);
    let separating = prop::sample::select(vec![',', '=', ' ', '"', '\'', '#', 'ü', '漢']);
    let character = prop_oneof![
        1 => without_form,
        2 => Just('\\'),
        8 => separating,
        8 => prop::char::range('a', 'e'),
        1 => any::<char>(),
    ];
    prop::collection::vec(character, 0..8).prop_map(|characters| characters.into_iter().collect())
}

/// The same `count` texts every time.
pub(crate) fn awkward_texts(count: usize) -> Vec<String> {
    let (mut runner, strategy) = (TestRunner::deterministic(), awkward_text());
    let mut text = || strategy.new_tree(&mut runner).expect("nothing is filtered").current();
    (0..count).map(|_| text()).collect()
}
