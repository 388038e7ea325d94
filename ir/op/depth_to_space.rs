//! DepthToSpace and SpaceToDepth.
//!
//! Opsets: DepthToSpace 1, 11 `mode`, 13, 28; SpaceToDepth 1, 13, 28.
//!
//! Shape rule: with block size b, `[N,C,H,W]` becomes `[N,C/b²,H*b,W*b]`, or the other way round.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    Port::{self, In, Out},
    Role, Spelling, Why,
};
use crate::{
    Dim,
    infer::{Call, Outcome},
};

pub(super) static DEPTH_TO_SPACE: OpSpec =
    OpSpec::new("DepthToSpace", &[sig(1, 1, 1)], Traits::PURE, |c| infer(c, true)).axes(|s| axes(s, In(0), Out(0)));
pub(super) static SPACE_TO_DEPTH: OpSpec =
    OpSpec::new("SpaceToDepth", &[sig(1, 1, 1)], Traits::PURE, |c| infer(c, false)).axes(|s| axes(s, Out(0), In(0)));

fn infer(call: &Call<'_>, to_space: bool) -> Outcome {
    let Some([n, c, spatial @ ..]) = call.shape(0) else { return Ok(vec![call.like(0, None)]) };
    let block = call.attrs().int("blocksize").and_then(|b| u64::try_from(b).ok()).filter(|&b| b > 0);
    let Some(block) = block else { return Err("blocksize has to be a positive number".into()) };
    let volume = (0..spatial.len()).try_fold(1u64, |v, _| v.checked_mul(block));
    let channels = match volume {
        Some(v) if to_space => c.floor_div(v),
        Some(v) => c.mul(&Dim::Known(v)),
        None => Dim::Unknown,
    };
    let size = |d: &Dim| if to_space { d.mul(&Dim::Known(block)) } else { d.floor_div(block) };
    let shape = [n.clone(), channels].into_iter().chain(spatial.iter().map(size)).collect();
    Ok(vec![call.like(0, Some(shape))])
}

/// `deep[n,b*d*c,h,w]` and `wide[n,c,h*b,w*d]`, with blocks of b times d; `deep[n,c*b*d,…]` in the mode CRD.
fn axes(s: &mut Spelling<'_>, deep: Port, wide: Port) -> Result<(), Why> {
    if s.shape(deep)?.len() != 4 {
        return Err("it has other axes than an image");
    }
    let block = s.count("blocksize", None)?;
    s.tie(&[(deep, 0), (wide, 0)], Role::Free)?;
    let channels = s.tie(&[(wide, 1)], Role::Free)?;
    let blocks = [2, 3].map(|axis| (axis, s.letter(Dim::Known(block), Role::Free)));
    for (axis, inner) in blocks {
        let outer = s.tie(&[(deep, axis)], Role::Free)?;
        s.spell(wide, axis, &[outer, inner]);
    }
    let [(_, b), (_, d)] = blocks;
    let crd = s.call.attrs().str("mode") == Some("CRD");
    s.spell(deep, 1, &if crd { [channels, b, d] } else { [b, d, channels] });
    Ok(())
}
