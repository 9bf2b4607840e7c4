use proptest::prelude::*;

use super::*;

fn is_match(pattern: &str, value: &str) -> bool {
    let regex = CompiledRegex::compile(pattern).expect("a good pattern");
    let matched = regex.is_match(value.as_bytes());
    assert_eq!(regex.is_match_iter(value.bytes()), matched, "byte by byte: {pattern} on {value}");
    matched
}

#[test]
fn matches_the_whole_value() {
    let cases = [
        ("a|ab", "ab", true),
        ("a|ab", "abc", false),
        ("b", "ab", false),
        ("/v[0-9]+/.*", "/v12/x", true),
        ("/v[0-9]+/.*", "/v/x", false),
        ("/v[0-9]+/.*", "/V1/x", false),
        ("(?i)/v[0-9]+", "/V1", true),
        ("a.c", "a/c", true),
        ("", "", true),
        ("", "x", false),
        ("^/a$", "/a", true),
        ("a*?", "aaa", true),
        ("(?x) a b # comment", "ab", true),
        (r"\w+", "caf\u{e9}", false),
        ("caf\u{e9}", "caf\u{e9}", true),
        (r"a\b.b", "a b", true),
    ];
    for (pattern, value, expected) in cases {
        assert_eq!(is_match(pattern, value), expected, "{pattern} on {value}");
    }
    assert!(CompiledRegex::compile("(?-u:.)").expect("bytes").is_match(b"\xff"));
}

#[test]
fn refuses_what_it_cannot_keep_linear_or_small() {
    let syntax = ["(", "a)(?:b", "[z-a]", "*", r"(a)\1", "(?=a)", r"\p{Greek}", "(?P<n>a)(?P<n>b)"];
    for pattern in syntax {
        let error = CompiledRegex::compile(pattern).expect_err(pattern);
        let is_line = |words: &str| !words.is_empty() && !words.contains('\n');
        assert!(matches!(&error, RegexError::Syntax(words) if is_line(words)), "{pattern}: {error:?}");
    }
    for pattern in ["[a-z]{5000}", "(?:(?:[a-z]{100}){100}){100}"] {
        assert_eq!(CompiledRegex::compile(pattern), Err(RegexError::TooLarge), "{pattern}");
    }
}

/// Its table would have some 2^17 states.
const EXPLOSIVE: &str = "(?:a|b)*a(?:a|b){16}";

#[test]
fn an_expression_with_too_large_a_table_is_simulated() {
    let regex = CompiledRegex::compile(EXPLOSIVE).expect("small as an automaton");
    assert!(matches!(regex.engine, Engine::Simulation(_)));
    assert!(matches!(CompiledRegex::compile("/v[0-9]+").expect("good").engine, Engine::Table(..)));
    assert!(is_match(EXPLOSIVE, &format!("bba{}", "b".repeat(16))));
    assert!(!is_match(EXPLOSIVE, &format!("bba{}", "b".repeat(17))));
    assert!(!is_match(EXPLOSIVE, &format!("bba{}c", "b".repeat(16))));
    // Another expression in between takes the thread's scratch space over.
    let other = CompiledRegex::compile("(?:a|b)*b(?:a|b|c){15}").expect("good");
    assert!(matches!(other.engine, Engine::Simulation(_)));
    assert!(other.is_match(format!("b{}", "c".repeat(15)).as_bytes()));
    assert!(regex.is_match(format!("a{}", "a".repeat(16)).as_bytes()));
}

#[test]
fn knows_the_elements_that_every_match_begins_with() {
    let cases = [
        ("/a/b[0-9]+", "/a"),
        ("/a/b/.*", "/a/b"),
        ("/a/b", "/a"),
        ("/(?:a|ab)/c/.*", ""),
        ("/a(?:/.*)?", ""),
        ("(?i)/a/.*", ""),
        ("/\u{e9}/a", ""),
        (".*", ""),
        ("", ""),
        (EXPLOSIVE, ""),
    ];
    for (pattern, elements) in cases {
        assert_eq!(CompiledRegex::compile(pattern).expect("good").elements(), elements, "{pattern}");
    }
    let long = format!("/{}/.*", "a".repeat(100));
    assert_eq!(CompiledRegex::compile(&long).expect("good").elements(), "");
}

#[test]
fn equality_is_that_of_the_pattern() {
    let compile = |pattern| CompiledRegex::compile(pattern).expect("good");
    assert_eq!(compile("a+"), compile("a+"));
    assert_ne!(compile("a+"), compile("aa*"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn both_engines_agree_with_an_independent_one(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "a", "b", "/", "a|b", "(ab|a)", "(a|ab)(c|bcd)?", "[ab]+", ".*", "a*?", "(a*)*", "b{2,3}", "|", "^", "$", r"\b",
        ]), 0..5),
        value in "[abcd/]{0,20}",
    ) {
        let pattern = pieces.concat();
        let regex = CompiledRegex::compile(&pattern).expect("good pieces");
        let oracle = regex::bytes::RegexBuilder::new(&format!("^(?:{pattern})$")).unicode(false).build().expect("good pieces");
        prop_assert_eq!(regex.is_match(value.as_bytes()), oracle.is_match(value.as_bytes()), "{} on {}", pattern, value);
        let simulation = CompiledRegex::simulation(&pattern).expect("good pieces");
        prop_assert_eq!(SCRATCH.with_borrow_mut(|scratch| scratch.run(&simulation, value.as_bytes())), oracle.is_match(value.as_bytes()));
    }
}
