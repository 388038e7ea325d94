//! Expand.
//!
//! Opsets: 8, 13.
//!
//! Shape rule: the input's shape and the target broadcast in both directions.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    At,
    Port::{In, Out},
    Role, Spelling, Why,
};
use crate::{
    Dim,
    infer::{Call, Num, Outcome, shape::broadcast},
};

pub(super) static SPEC: OpSpec = OpSpec::new("Expand", &[sig(8, 2, 2)], Traits::PURE, infer).axes(axes);

fn infer(call: &Call<'_>) -> Outcome {
    let target = call.per_axis(1).map(|t| t.iter().map(Num::dim).collect::<Vec<_>>());
    let (Some(input), Some(target)) = (call.shape(0), target) else { return Ok(vec![call.like(0, None)]) };
    let fact = call.like(0, Some(broadcast(input, &target)?));
    // One element fills the result.
    let elements = match (call.elements(0), fact.small_count()) {
        (Some([one]), Some(n)) => Some(vec![one.clone(); n]),
        _ => None,
    };
    Ok(vec![fact.with(elements)])
}

/// `0[a,1] -> 0[b,a,c]`: an axis that is new or stretched has a letter of its own.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    let (input, output) = (s.shape(In(0))?, s.shape(Out(0))?);
    for (back, to) in output.iter().rev().enumerate() {
        let at = output.len() - 1 - back;
        let from = input.len().checked_sub(back + 1).and_then(|i| Some((i, input.get(i)?)));
        match from {
            Some((i, size)) if size.same(to) => {
                s.tie(&[(In(0), i), (Out(0), at)], Role::Free)?;
            }
            None | Some((_, Dim::Known(1))) => {
                from.into_iter().for_each(|(i, _)| s.spell(In(0), i, &[]));
                s.tie(&[(Out(0), at)], Role::Free)?;
            }
            Some((i, _)) => {
                s.whole(In(0), i, "it is not known whether it is stretched")?;
                s.whole(Out(0), at, "it is not known whether it is stretched")?;
            }
        }
    }
    // The target is aligned with the last axes of the output.
    let target = s.call.per_axis(1).map_or(0, |t| t.len());
    let missing = output.len().saturating_sub(target);
    s.state_axes(Out(0), |axis| At::Input(1, axis.wrapping_sub(missing)));
    Ok(())
}
