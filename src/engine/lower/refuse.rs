//! What tract must not be asked: operators that it does not have, and those that it gets wrong.

use std::{collections::BTreeSet, sync::LazyLock};

use planish_passes::EngineError;

use super::scope::Op;

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
        reason: "shifting by all bits of an element or more gives an arbitrary number, and the amount is no constant below that",
    },
    Wrong {
        op: "SpaceToDepth",
        when: |op| op.str("mode") == Some("CRD"),
        reason: "the CRD mode is computed like the DCR mode",
    },
];

/// Operators of ai.onnx.ml that were found right.
const CLASSIC: &[&str] = &["ArrayFeatureExtractor"];

/// Names of the operators that tract has, whatever their domain.
static KNOWN: LazyLock<BTreeSet<String>> = LazyLock::new(|| tract_onnx::onnx().op_register.0.into_keys().collect());

/// Fails for a node that tract must not run.
pub(super) fn check(op: &Op<'_>) -> Result<(), EngineError> {
    let own = op.domain().is_empty() || (op.domain() == "ai.onnx.ml" && CLASSIC.contains(&op.name()));
    if !own || !KNOWN.contains(op.name()) {
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
