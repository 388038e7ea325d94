//! What tract must not be asked: operators that it does not have, and those that it gets wrong.

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
        op: "SpaceToDepth",
        when: |op| op.str("mode") == Some("CRD"),
        reason: "the CRD mode is computed like the DCR mode",
    },
];

/// Fails for a node that tract must not run.
pub(super) fn check(op: &Op<'_>) -> Result<(), EngineError> {
    if !op.domain().is_empty() && !(op.domain() == "ai.onnx.ml") {
        return Err(op.unsupported("the engine does not know this domain"));
    }
    if !tract_onnx::onnx().op_register.0.contains_key(op.name()) {
        return Err(op.unsupported("the engine does not have this operator"));
    }
    match WRONG.iter().find(|w| op.is(w.op) && (w.when)(op)) {
        Some(wrong) => Err(op.refused(wrong.reason)),
        None => Ok(()),
    }
}
