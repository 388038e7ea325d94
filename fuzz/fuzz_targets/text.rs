//! A text is refused, or what it means survives printing and parsing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use planish_ir::text::{Fill, ParseOptions, PrintOptions, parse_with, print, print_with};

/// Small, so that a run is not spent on filling weights.
const OPTIONS: ParseOptions = ParseOptions { fill: Fill::Seeded, max_filled: 1 << 16 };

fuzz_target!(|text: &str| {
    let Ok(model) = parse_with(text, OPTIONS) else { return };
    let mut full = print_with(&model, PrintOptions::full());
    // The first round may move a type to where the value is made, and reorder nodes that no output needs; the second must
    // change nothing.
    for round in 0..2 {
        let again = parse_with(&full, OPTIONS).unwrap_or_else(|e| panic!("the full form is refused: {e}\n{full}"));
        let printed = print_with(&again, PrintOptions::full());
        assert!(round == 0 || printed == full, "the text does not settle:\n{full}\n{printed}");
        full = printed;
    }
    // The form for reading leaves weights out, which may then take more room than the options give.
    let _ = parse_with(&print(&model), OPTIONS);
});
