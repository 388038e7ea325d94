//! Runs passes and prints models without the digests of weights: the last bits of factors depend on the instructions that a machine has.

use crate::{Pass, Target, Tensors, testing};

pub(super) fn check_with(pass: impl Pass + 'static, before: &str) -> String {
    without_digests(&testing::check_with(pass, before))
}

pub(super) fn check_calibrated(pass: impl Pass + 'static, target: Target, samples: &[Tensors], before: &str) -> String {
    without_digests(&testing::check_calibrated(pass, target, samples, before))
}

fn without_digests(model: &str) -> String {
    let mut text = String::new();
    for line in model.lines() {
        let digest = line.split_once("  # ").and_then(|(tensor, comment)| Some((tensor, comment.split_once(", ")?.1)));
        match digest {
            Some((tensor, comment)) => text.extend([tensor, "  # ", comment, "\n"]),
            None => text.extend([line, "\n"]),
        }
    }
    text
}
