//! The engine on rules of the tests' own.

use proptest::{collection::vec, prelude::*, sample::select};

use super::{RuleSet, UserRules};
use crate::{
    Target::Generic,
    testing::{check_for, explained, refusals_for},
};

fn pass(rule: &str) -> UserRules {
    crate_rules(rule).unwrap_or_else(|e| panic!("{e}"))
}

fn crate_rules(rule: &str) -> Result<UserRules, serde_json::Error> {
    serde_json::from_value(serde_json::json!({"text": rule}))
}

fn rule(body: &str) -> String {
    format!("rule r what \"test\" numerics reassociated\n{body}")
}

fn errors(text: &str) -> String {
    match RuleSet::parse(text) {
        Ok(_) => "nothing".into(),
        Err(e) => e.iter().map(|e| format!("{e}\n")).collect(),
    }
}

fn graph(nodes: &str) -> String {
    format!(
        r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x, float[N,4] z) => (float[N,4] y)
        <float two = {{2.0}}, float[4] w = {{1.0, 2.0, 3.0, 4.0}}, float[4] v = {{1.0, 1.0, 1.0, 1.0}}> {{ {nodes} }}"#
    )
}

#[test]
fn mistakes_are_located_and_corrected() {
    let with = |m: &str, rest: &str| errors(&rule(&format!("match {{ {m} }}\n{rest}")));
    let emit = "emit { y = Relu(x) }";
    insta::assert_snapshot!(with("y = Reluu(x)", emit), @"2:13: the operator table does not know Reluu; did you mean `Relu`?");
    insta::assert_snapshot!(with("y = Relu(x, x)", emit), @"2:13: Relu takes 1 inputs, not 2");
    insta::assert_snapshot!(with("y = Relu(Softmax<axs=1>(x))", emit), @"2:26: Softmax has no attribute `axs`; did you mean `axis`?");
    insta::assert_snapshot!(with("y = Relu(Abs(x))", "where flaot(x) else \"no\" emit { y = Relu(x) }"), @"3:7: there is no function `flaot`; did you mean `float`?");
    insta::assert_snapshot!(with("y = Relu(Abs(x))", "emit { y = Relu(xx) }"), @"3:17: `xx` is not bound by the match; did you mean `x`?");
    insta::assert_snapshot!(with("y = Add(x, unused)", emit), @"2:20: `unused` is bound but never used; `_` matches anything");
    insta::assert_snapshot!(with("a = Abs(x) y = Relu(x)", emit), @"2:9: no later line uses `a`");
    insta::assert_snapshot!(with("y = Relu(a) a = Abs(x)", emit), @"2:21: `a` has a meaning already, from line 2; lines come before what uses them");
    insta::assert_snapshot!(with("y = Relu(Abs(x) | Neg(z))", emit), @"
    2:31: `z` is bound but never used; `_` matches anything
    3:17: `x` is bound in some alternatives of the match only
    ");
    insta::assert_snapshot!(with("y = Relu(Abs(x))", "emit { y = Relu(x) } emit { y = Abs(x) }"), @"3:22: is never reached: the emit in line 3 takes all that is left");
    insta::assert_snapshot!(with("y = Relu(Abs(x))", "emit for tensort { y = Relu(x) }"), @"3:10: `tensort` is no target; did you mean `tensorrt`?");
    insta::assert_snapshot!(with("y = Relu(Abs(x))", "emit { t = Abs(x) y = Relu(x) }"), @"3:8: `t` is neither a result of the match nor used");
    insta::assert_snapshot!(with("y = Relu(Abs(x))", "emit { t = Abs(x) }"), @"
    3:1: does not make `y`
    3:8: `t` is neither a result of the match nor used
    ");
    insta::assert_snapshot!(with("y = Relu(Abs(x))", "where Relu(x) == 1 else \"no\" emit { y = x }"), @"3:7: operators of a model stand in `match` and `emit` only");
    insta::assert_snapshot!(errors("rule a what \"b\" numerics sharp match { } rule c what \"d\" numerics exact match { y = }"), @"
    1:26: `sharp` is no class of numerics
    1:85: expected a pattern, found `}`
    ");
    insta::assert_snapshot!(errors("rule r what \"open"), @"
    1:13: the text has no closing quote on its line
    1:18: expected a text that says what the rule is for, found the end of the file
    ");
}

#[test]
fn computed_constants() {
    let rule = rule(
        "match { y = Mul(Add(x, const w), const v) }
         where rank(w) == 1 else \"no\"
         let offset = mul(w, v)
         let both = concat(offset, reshape(v, [-1]), 0)
         emit when elements(both) == 8 else \"never\" { t = Add(x, offset) y = t }",
    );
    insta::assert_snapshot!(check_for(pass(&rule), Generic, &graph("a = Add (x, w) y = Mul (a, v)")), @r#"
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,4] x, float[N,4] z) => (float[N,4] y)
    <
      float two = {2.0},
      float[4] y_offset = {1.0, 2.0, 3.0, 4.0}
    >
    {
      y = Add (x, y_offset)
    }
    "#);
}

#[test]
fn it_has_to_pay() {
    let rule = rule("match { y = Relu(x) } emit { y = Max(x, 0.0:float) }");
    insta::assert_debug_snapshot!(refusals_for(pass(&rule), Generic, &graph("y = Relu (x)")), @r#"
    [
        "r: it would not pay: nodes before 1, after 1",
    ]
    "#);
}

#[test]
fn several_results() {
    let rule = rule(
        "match { s = Add(x, z) also s y = LayerNormalization<axis=-1, epsilon=$e>(s, w, v) }
         emit { (y, _, _, s) = com.microsoft::SkipLayerNormalization<epsilon=$e>(x, z, w, v) }",
    );
    let text = graph("s = Add (x, z) y = LayerNormalization (s, w, v) r = Relu (s)")
        .replace("(float[N,4] y)", "(float[N,4] y, float[N,4] r)");
    insta::assert_snapshot!(check_for(pass(&rule), Generic, &text), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,4] x, float[N,4] z) => (float[N,4] y, float[N,4] r)
    <
      float two = {2.0},
      float[4] w = {1.0, 2.0, 3.0, 4.0},
      float[4] v = {1.0, 1.0, 1.0, 1.0}
    >
    {
      y, "", "", s = com.microsoft.SkipLayerNormalization <epsilon = 1e-5> (x, z, w, v)
      r = Relu (s)
    }
    "#);
    // The scale depends on the sum, which would then wait for itself.
    let cycle = graph(
        "s = Add (x, z) t = Relu (s) k = ReduceMax <axes = [0], keepdims = 0> (t) y = LayerNormalization (s, k, v)",
    );
    insta::assert_debug_snapshot!(refusals_for(pass(&rule), Generic, &cycle), @r#"
    [
        "r: \"s\" would feed its own replacement",
    ]
    "#);
}

#[test]
fn split_outputs_rest_and_optional_nodes() {
    let split = rule("match { (a, b) = Split<axis=-1>(x) y = Concat<axis=-1>(a, b) } emit { y = x }");
    let text = graph("a, b = Split <axis = 1> (x) c = Concat <axis = 1> (a, b) y = Relu (c)");
    insta::assert_snapshot!(check_for(pass(&split), Generic, &text), @r#"
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,4] x, float[N,4] z) => (float[N,4] y)
    <
      float two = {2.0},
      float[4] w = {1.0, 2.0, 3.0, 4.0},
      float[4] v = {1.0, 1.0, 1.0, 1.0}
    >
    {
      y = Relu (x)
    }
    "#);
    let sum = rule("match { y = Sum(Sum(...first), ...rest) } emit { y = Sum(...first, ...rest) }");
    insta::assert_snapshot!(check_for(pass(&sum), Generic, &graph("a = Sum (x, z) y = Sum (a, w, x)")), @r#"
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,4] x, float[N,4] z) => (float[N,4] y)
    <
      float two = {2.0},
      float[4] w = {1.0, 2.0, 3.0, 4.0},
      float[4] v = {1.0, 1.0, 1.0, 1.0}
    >
    {
      y = Sum (x, z, w, x)
    }
    "#);
    let cast = rule("match { y = Abs(Cast?<to=1>(Abs(x))) } emit { y = Abs(x) }");
    for nodes in ["a = Abs (x) y = Abs (a)", "a = Abs (x) c = Cast <to = 1> (a) y = Abs (c)"] {
        assert!(check_for(pass(&cast), Generic, &graph(nodes)).contains("y = Abs (x)"));
    }
}

#[test]
fn subgraphs_are_rewritten_and_their_captures_count_as_readers() {
    let rule = rule("match { y = Neg(Neg(x)) } emit { y = x }");
    let text = r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N] x, bool c) => (float[N] y, float[N] z) {
        a = Neg (x)
        b = Neg (a)
        z = Relu (b)
        y = If (c) <then_branch = t () => (float[N] p) { q = Neg (a) r = Neg (q) p = Abs (r) },
            else_branch = e () => (float[N] o) { o = Abs (x) }>
    }"#;
    insta::assert_snapshot!(check_for(pass(&rule), Generic, text), @r#"
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N] x, bool c) => (float[N] y, float[N] z) {
      a = Neg (x)
      y = If (c) <
        else_branch = e () => (float[N] o) {
          o = Abs (x)
        },
        then_branch = t () => (float[N] p) {
          p = Abs (a)
        }
      >
      b = Neg (a)
      z = Relu (b)
    }
    "#);
}

#[test]
fn near_misses_say_what_is_different() {
    let rule = rule("match { y = Mul(Add(Exp(x), 1), 0.5) } where float(x) else \"no\" emit { y = Abs(x) }");
    let text = graph("e = Exp (x) a = Add (e, two) y = Mul (a, two)");
    insta::assert_debug_snapshot!(explained(pass(&rule), Generic, &text), @r#"
    [
        "r: matched Mul, Add and Exp, but the constant is 2, not 1",
    ]
    "#);
}

#[test]
fn alternatives_are_searched_to_the_end_but_not_for_ever() {
    let or = "x | Abs(x)";
    let nested =
        (0..6).fold("z".to_owned(), |inner, _| format!("Add(Add({or}, {inner}) | Add({inner}, {or}), {inner})"));
    assert!(errors(&rule(&format!("match {{ y = Relu({nested}) }} emit {{ y = x }}"))).contains("parts"));
    let deep = "(".repeat(10_000);
    assert!(errors(&rule(&format!("match {{ y = Relu({deep}"))).contains("nested"));
    let chain = "1+".repeat(90);
    let long = rule(&format!("match {{ y = Relu(Abs(x)) }} where {chain}1 == 91 else \"no\" emit {{ y = x }}"));
    check_for(pass(&long), Generic, &graph("a = Abs (x) y = Relu (a)"));
    let chain = "1+".repeat(10_000);
    assert!(
        errors(&rule(&format!("match {{ y = Relu(x) }} where {chain}1 == 1 else \"no\" emit {{ y = x }}")))
            .contains("long")
    );
}

/// What rules are made of.
const WORDS: &[&str] = &[
    "rule",
    "r",
    "what",
    "\"t\"",
    "numerics",
    "exact",
    "match",
    "{",
    "}",
    "where",
    "else",
    "let",
    "emit",
    "for",
    "when",
    "also",
    "shared",
    "const",
    "y",
    "x",
    "=",
    "Add",
    "Clip<min=0>",
    "Split",
    "(",
    ")",
    "<",
    ">",
    "|",
    ",",
    "-",
    "1",
    "0.5",
    "[",
    "]",
    "...",
    "..",
    "?",
    "$a",
    ":",
    "float",
    "opset",
    "==",
    "and",
    "not",
    "com.microsoft::Gelu",
    "rank(x)",
    "_",
    "9999999999999999999",
    "\n",
    "é",
    "transpose(x, [1, 0])",
    "generic",
    "::",
    ".",
];

proptest! {
    #[test]
    fn nothing_that_is_written_makes_the_parser_panic(words in vec(select(WORDS), 0..120)) {
        let _ = RuleSet::parse(&words.join(" "));
        let _ = RuleSet::parse(&format!("rule r what \"t\" numerics exact match {{ {} }}", words.join(" ")));
        let _ = RuleSet::parse(&rule(&format!("match {{ y = Relu(Abs(x)) }} {}", words.join(" "))));
    }

    #[test]
    fn nor_does_any_text(text in any::<String>()) {
        let _ = RuleSet::parse(&text);
    }

    /// Rules that are accepted act on a graph without a panic, and what they leave is valid.
    #[test]
    fn what_is_accepted_runs(words in vec(select(WORDS), 0..20)) {
        let text = rule(&format!("match {{ y = Mul(Add(x, const c), const d) }} let e = {} emit {{ y = Add(x, e) }}", words.join(" ")));
        if let Ok(pass) = crate_rules(&text) {
            check_for(pass, Generic, &graph("a = Add (x, w) y = Mul (a, v)"));
        }
    }
}

#[test]
fn the_longest_pattern_is_matched() {
    let mut lines = "l0 = Neg(x)".to_owned();
    let mut nodes = "n0 = Neg (x)".to_owned();
    for i in 1..120 {
        lines += &format!(" l{i} = Neg(l{})", i - 1);
        nodes += &format!(" n{i} = Neg (n{})", i - 1);
    }
    let text = rule(&format!("match {{ {lines} y = Abs(l119) }} emit {{ y = Abs(x) }}"));
    let after = check_for(pass(&text), Generic, &graph(&format!("{nodes} y = Abs (n119)")));
    assert!(after.contains("y = Abs (x)"));
}

#[test]
fn lists_of_one_number() {
    let with = |condition: &str| {
        let text = rule(&format!("match {{ y = Relu(Abs(x)) }}\nwhere {condition} else \"no\" emit {{ y = Abs(x) }}"));
        refusals_for(pass(&text), Generic, &graph("a = Abs (x) y = Relu (a)")).join("; ")
    };
    assert_eq!(with("repeat(2, dim(x, -1)) != [2, 2, 2, 2]"), "r: no");
    assert_eq!(with("length(repeat(1.5, 0)) != 0"), "r: no");
    insta::assert_snapshot!(with("length(repeat(1, -1)) == 0"), @"r: not known whether length(repeat(1, -1)) == 0: a list cannot have -1 elements");
    insta::assert_snapshot!(with("length(repeat(1, 65537)) == 0"), @"r: not known whether length(repeat(1, 65537)) == 0: a list cannot have 65537 elements");
    insta::assert_snapshot!(with("length(repeat(1, dim(x, 0))) == 0"), @"r: not known whether length(repeat(1, dim(x, 0))) == 0");
}
