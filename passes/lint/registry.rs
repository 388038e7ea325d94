//! The table of all rules.

use super::{
    Effect, Lint, activation_grid, bias, blocks, double, dynamic, float16, granularity, grid_shape, half_quantized,
    idle_pair, minimum_opset, mixed_grids, no_kernel, operators, opset_range, quantized_types, scales, split_fusion,
    weight_types, zero_points,
};
use crate::Target;

/// One line of the table.
pub struct LintEntry {
    /// Name on the command line.
    pub name: &'static str,
    /// Whose rule it is.
    pub targets: &'static [Target],
    /// What a violation leads to.
    pub effect: Effect,
    /// Source text, whose header is the documentation.
    source: &'static str,
    /// The rule.
    pub(super) lint: &'static dyn Lint,
}

macro_rules! lint {
    ($name:literal, $source:literal, $targets:expr, $effect:ident, $lint:expr) => {
        LintEntry {
            name: $name,
            targets: $targets,
            effect: Effect::$effect,
            source: include_str!($source),
            lint: &$lint,
        }
    };
}

const ANY: &[Target] = &Target::ALL;
const CPU: &[Target] = &[Target::OnnxruntimeCpu];
const TENSORRT: &[Target] = &[Target::Tensorrt];
const STANDARD: &[Target] = &[Target::Tensorrt, Target::Generic];

/// Every rule, by name.
pub static LINTS: &[LintEntry] = &[
    lint!("activation-grid", "activation_grid.rs", CPU, Slow, activation_grid::ActivationGrid),
    lint!("bias", "bias.rs", TENSORRT, Refused, bias::Bias),
    lint!("blocks", "blocks.rs", TENSORRT, Refused, blocks::Blocks),
    lint!("double", "double.rs", TENSORRT, Refused, double::Double),
    lint!("dynamic", "dynamic.rs", TENSORRT, Refused, dynamic::Dynamic),
    lint!("float16", "float16.rs", CPU, Slow, float16::Float16),
    lint!("granularity", "granularity.rs", TENSORRT, Refused, granularity::Granularity),
    lint!("grid-shape", "grid_shape.rs", ANY, Refused, grid_shape::GridShape),
    lint!("half-quantized", "half_quantized.rs", TENSORRT, Slow, half_quantized::HalfQuantized),
    lint!("idle-pair", "idle_pair.rs", CPU, Slow, idle_pair::IdlePair),
    lint!("minimum-opset", "minimum_opset.rs", ANY, Refused, minimum_opset::MinimumOpset),
    lint!("mixed-grids", "mixed_grids.rs", CPU, Slow, mixed_grids::MixedGrids),
    lint!("no-kernel", "no_kernel.rs", CPU, Slow, no_kernel::NoKernel),
    lint!("operators", "operators.rs", STANDARD, Refused, operators::Operators),
    lint!("opset-range", "opset_range.rs", TENSORRT, Refused, opset_range::OpsetRange),
    lint!("quantized-types", "quantized_types.rs", TENSORRT, Refused, quantized_types::QuantizedTypes),
    lint!("scales", "scales.rs", TENSORRT, Refused, scales::Scales),
    lint!("split-fusion", "split_fusion.rs", TENSORRT, Slow, split_fusion::SplitFusion),
    lint!("weight-types", "weight_types.rs", CPU, Slow, weight_types::WeightTypes),
    lint!("zero-points", "zero_points.rs", TENSORRT, Refused, zero_points::ZeroPoints),
];

impl LintEntry {
    /// The documentation: the header of the source file, without comment signs.
    pub fn doc(&self) -> String {
        let lines = self.source.lines().map_while(|l| l.strip_prefix("//!"));
        lines.map(|l| l.strip_prefix(' ').unwrap_or(l)).collect::<Vec<_>>().join("\n")
    }

    /// The first sentence of the documentation.
    pub fn summary(&self) -> String {
        self.doc().lines().next().unwrap_or_default().trim_end_matches('.').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_every_header_is_complete() {
        assert!(LINTS.is_sorted_by(|a, b| a.name < b.name));
        for e in LINTS {
            for part in ["Rule", "Why", "Do", "Reference"] {
                assert!(e.doc().lines().any(|l| l.starts_with(part)), "{} has no line {part}", e.name);
            }
        }
    }
}
