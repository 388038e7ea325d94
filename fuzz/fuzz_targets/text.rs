//! A text is refused, or what it means survives printing and parsing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use planish_ir::text::{Fill, ParseOptions, PrintOptions, parse_with, print, print_with};

/// Small, so that a run is not spent on filling weights.
const OPTIONS: ParseOptions = ParseOptions { fill: Fill::Seeded, max_filled: 1 << 16 };

fuzz_target!(|text: &str| {
    let Ok(model) = parse_with(text, OPTIONS) else { return };
    let full = print_with(&model, PrintOptions::full());
    let again = parse_with(&full, OPTIONS).unwrap_or_else(|e| panic!("the full form is refused: {e}\n{full}"));
    assert_eq!(print_with(&again, PrintOptions::full()), full);
    // The form for reading leaves weights out, which may then take more room than the options give.
    let _ = parse_with(&print(&model), OPTIONS);
});
