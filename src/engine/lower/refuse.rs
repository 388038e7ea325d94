//! What tract must not be asked: operators that it does not have, and those that it gets wrong.

use std::{collections::BTreeSet, sync::LazyLock};

use planish_passes::EngineError;

use super::{packed::container, rounding_named, scope::Op};

/// A form of an operator that tract computes wrongly. Each was found by comparing with the definition.
struct Wrong {
    op: &'static str,
    when: fn(&Op<'_>) -> bool,
    reason: &'static str,
}

const WRONG: &[Wrong] = &[
    Wrong {
        op: "BitShift",
        when: |op| !shifts_inside(op),
        reason: "shifting by all bits or more gives an arbitrary number, and the amount is no constant below that",
    },
    Wrong {
        op: "CastLike",
        when: |op| op.dtype(1).is_some_and(|d| container(d) != d),
        reason: "elements below a byte and small floats are held in other types here, to which a cast does not round",
    },
    Wrong {
        op: "ConvTranspose",
        when: |op| op.attribute("output_shape").is_some(),
        reason: "the padding that output_shape asks for is computed wrongly",
    },
    Wrong {
        op: "Dropout",
        when: |op| op.output(1).is_some() && op.scope.opset() < 12,
        reason: "the mask is not the one of this operator set version",
    },
    Wrong { op: "GRU", when: is_unusual, reason: UNUSUAL },
    Wrong {
        op: "GlobalLpPool",
        when: |op| op.int("p", 2) != 2,
        reason: "the signs of the elements are not dropped for a norm other than 2",
    },
    Wrong {
        op: "GridSample",
        when: |op| op.str("mode").is_some_and(|m| m.ends_with("cubic")) && op.str("padding_mode") == Some("border"),
        reason: "cubic interpolation reads wrong elements at the border",
    },
    Wrong { op: "LSTM", when: is_unusual, reason: UNUSUAL },
    Wrong {
        op: "Pad",
        when: |op| op.constant(1).is_some_and(|p| p.to_i64().is_ok_and(|p| p.iter().any(|&n| n < 0))),
        reason: "negative padding overflows",
    },
    Wrong { op: "RNN", when: is_unusual, reason: UNUSUAL },
    Wrong {
        op: "Resize",
        when: is_ambiguous_resize,
        reason: "with aligned corners and a scale that gives no whole size, implementations disagree on the result",
    },
    Wrong {
        op: "SpaceToDepth",
        when: |op| op.str("mode") == Some("CRD"),
        reason: "the CRD mode is computed like the DCR mode",
    },
];

const UNUSUAL: &str = "clipping, coupled gates, and activations other than the usual ones are left out";

/// Operators of ai.onnx.ml that were found right.
const CLASSIC: &[&str] = &["ArrayFeatureExtractor"];

/// Names of the operators that tract has, whatever their domain.
static KNOWN: LazyLock<BTreeSet<String>> = LazyLock::new(|| tract_onnx::onnx().op_register.0.into_keys().collect());

/// Fails for a node that tract must not run.
pub(super) fn check(op: &Op<'_>) -> Result<(), EngineError> {
    let own = op.domain().is_empty() || (op.domain() == "ai.onnx.ml" && CLASSIC.contains(&op.name()));
    if !own || !KNOWN.contains(op.name()) && rounding_named(op.name()).is_none() {
        return Err(op.unsupported("the engine does not have this operator"));
    }
    match WRONG.iter().find(|w| op.is(w.op) && (w.when)(op)) {
        Some(wrong) => Err(op.refused(wrong.reason)),
        None => Ok(()),
    }
}

fn shifts_inside(op: &Op<'_>) -> bool {
    let Some(amounts) = op.constant(1) else { return false };
    let bits = i64::try_from(amounts.dtype().bits()).unwrap_or(0);
    amounts.to_i64().is_ok_and(|v| v.iter().all(|a| (0..bits).contains(a)))
}

/// A recurrent layer with an attribute that tract does not look at.
fn is_unusual(op: &Op<'_>) -> bool {
    let usual: &[&str] = match op.name() {
        "RNN" => &["tanh"],
        "GRU" => &["sigmoid", "tanh"],
        _ => &["sigmoid", "tanh", "tanh"],
    };
    let given = op.attribute("activations").map_or(&[][..], |a| &a.strings);
    let others = given.iter().zip(usual.iter().cycle()).any(|(g, u)| !g.eq_ignore_ascii_case(u.as_bytes()));
    others || op.attribute("clip").is_some() || op.int("input_forget", 0) != 0
}

fn is_ambiguous_resize(op: &Op<'_>) -> bool {
    if op.str("coordinate_transformation_mode") != Some("align_corners") || op.input(3).is_some() {
        return false;
    }
    let slot = if op.scope.opset() < 11 { 1 } else { 2 };
    let (Some(shape), Some(scales)) = (op.shape(0), op.constant(slot).and_then(|t| t.to_f64().ok())) else {
        return true;
    };
    let whole = |(size, scale): (&Option<u64>, &f64)| size.is_some_and(|n| (n as f64 * scale).fract() == 0.0);
    shape.len() != scales.len() || !shape.iter().zip(&scales).all(whole)
}
