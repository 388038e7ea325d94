//! Everything that makes a model smaller without a target in mind: a group, repeated while anything changes.
//!
//! Before     a model as an exporter wrote it
//! After      the same function with fewer nodes and constants
//! When       always
//! Refuses    what its members refuse
//! Numerics   Reassociated, the worst of its members
//! Reference  the members

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Pass, Shape, Step};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Simplify {}

static STEPS: &[Step] = &[
    Step {
        pass: "freeze-initializers",
        why_here: "a weight that callers may override is no constant; before there are others",
    },
    Step { pass: "inline-functions", why_here: "the others do not look into functions" },
    Step { pass: "constants-to-initializers", why_here: "everything else looks for constants in one place" },
    Step { pass: "local-constants", why_here: "everything else looks for them in the graph that it changes" },
    Step { pass: "trim-subgraphs", why_here: "what subgraphs no longer capture goes with the next" },
    Step { pass: "dead-code", why_here: "what nobody reads need not be looked at" },
    Step { pass: "no-ops", why_here: "they hide patterns and constants" },
    Step { pass: "fold-constants", why_here: "its results feed the patterns below" },
    Step { pass: "shape-values", why_here: "what folding could not make constant is computed once" },
    Step { pass: "broadcasts", why_here: "frees what computed the shapes that it makes constant" },
    Step { pass: "casts", why_here: "they hide what the ones below look for" },
    Step { pass: "one-hot-matmul", why_here: "after broadcasts and casts, which hide what is compared" },
    Step { pass: "tables", why_here: "what it computes on constants is folded in the next round" },
    Step { pass: "slices", why_here: "makes picking and squeezing one node, so that reshapes meet" },
    Step { pass: "transpose-chains", why_here: "brings reshapes together that a transpose keeps apart" },
    Step { pass: "reshape-chains", why_here: "takes what all of the above brought together, and constant targets" },
    Step { pass: "inline-if", why_here: "conditions are constants only now, and what is inside is then seen by all" },
    Step { pass: "inline-loop", why_here: "as with conditions" },
    Step {
        pass: "hoists",
        why_here: "needs reshapes and transposes merged, or it would move some that were going anyway",
    },
    Step { pass: "sequences", why_here: "indices are constants only now" },
    Step { pass: "requantize", why_here: "compares scales, which are constants only now" },
    Step { pass: "bn-into-conv", why_here: "needs its statistics as constants, which folding may have made" },
    Step { pass: "hard-sigmoid", why_here: "before its factors are folded into neighbours" },
    Step { pass: "scale-into-linear", why_here: "as the one before, for factors and offsets that are spelled out" },
    Step { pass: "linear-chain", why_here: "after what stood between two linear operators went into one of them" },
    Step { pass: "associate-constants", why_here: "what no linear operator took" },
    Step { pass: "pad-into-window", why_here: "after what would have to be refused under padding" },
    Step { pass: "matmul-add", why_here: "after factors went into the weight" },
    Step { pass: "dedup-initializers", why_here: "makes equal what common subexpressions compare" },
    Step { pass: "cse", why_here: "last, since what it merges the others would have to take apart" },
];

impl Pass for Simplify {
    fn shape(&self) -> Shape<'_> {
        Shape::Group(STEPS)
    }
}
