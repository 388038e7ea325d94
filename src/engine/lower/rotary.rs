//! `RotaryEmbedding` (opset 23 on, and that of `com.microsoft`) as the products and sums that it stands for.

use planish_passes::EngineError;

use super::{
    attention::fixed,
    build::{Builder, int, ints},
    scope::Op,
};

/// Pairs are turned: `(a, b)` becomes `(a cos - b sin, a sin + b cos)`. Pairs are neighbours if `interleaved`, else halves
/// of a head.
pub(super) fn expand(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let (cos, sin, is_standard) = match (op.domain(), op.name()) {
        ("", "RotaryEmbedding") => (1, 2, true),
        ("com.microsoft", "RotaryEmbedding") => (2, 3, false),
        _ => return Ok(false),
    };
    if op.int("rotary_embedding_dim", 0) != 0 || op.int("is_packed_batching", 0) != 0 || op.float("scale", 1.0) != 1.0 {
        return Err(op.unsupported("only a part of each head is turned, or it is scaled"));
    }
    let (x, angles) = (fixed(op, 0)?, fixed(op, cos)?);
    let half = angles.last().copied().unwrap_or(0);
    let (batch, heads, length, is_flat) = match *x.as_slice() {
        [batch, heads, length, size] if size == 2 * half => (batch, heads, length, false),
        [batch, length, width] if half > 0 && width % (2 * half) == 0 => (batch, width / (2 * half), length, true),
        _ => return Err(op.unsupported("its angles are not half as many as a head has elements")),
    };
    let given = |name: &str, n: i64| op.attribute(name).is_some() && op.int(name, 0) != 0 && op.int(name, 0) != n;
    if given("num_heads", heads) {
        return Err(op.unsupported("the number of heads does not fit its angles"));
    }
    // Angles as `[batch or 1, 1, length, half]`.
    let mut rows = |slot: usize| -> Result<String, EngineError> {
        let table = op.required(slot)?;
        match (is_standard, angles.as_slice()) {
            (true, &[of, positions, _]) if op.input(3).is_none() && positions == length => {
                let shape = b.ints(&[of, 1, length, half]);
                Ok(b.op("Reshape", &[table, &shape], vec![]))
            }
            // The offset of the first position, which everything but zero would need the table for.
            (false, &[positions, _])
                if positions >= length
                    && op.constant(1).is_some_and(|t| t.single_i64() == Some(0) && t.elements() == 1) =>
            {
                let (start, end, axis) = (b.ints(&[0]), b.ints(&[length]), b.ints(&[0]));
                Ok(b.op("Slice", &[table, &start, &end, &axis], vec![]))
            }
            _ => Err(op.unsupported("its positions are not those of a sequence from its beginning")),
        }
    };
    let (cos, sin) = (rows(cos)?, rows(sin)?);
    let mut value = op.required(0)?.to_owned();
    if is_flat {
        let shape = b.ints(&[batch, length, heads, 2 * half]);
        value = b.op("Reshape", &[&value, &shape], vec![]);
        value = b.op("Transpose", &[&value], vec![ints("perm", &[0, 2, 1, 3])]);
    }
    // Pairs on an axis of their own.
    let interleaved = op.int("interleaved", 0) != 0;
    let (pair, axis) = if interleaved { ([half, 2], 4) } else { ([2, half], 3) };
    let shape = b.ints(&[batch, heads, length, pair[0], pair[1]]);
    let pairs = b.op("Reshape", &[&value, &shape], vec![]);
    let mut member = |i: i64| {
        let (start, end, at) = (b.ints(&[i]), b.ints(&[i + 1]), b.ints(&[axis]));
        let one = b.op("Slice", &[&pairs, &start, &end, &at], vec![]);
        let shape = b.ints(&[batch, heads, length, half]);
        b.op("Reshape", &[&one, &shape], vec![])
    };
    let (first, second) = (member(0), member(1));
    let mut product = |x: &str, y: &str| b.op("Mul", &[x, y], vec![]);
    let (ac, bs, at, bc) =
        (product(&first, &cos), product(&second, &sin), product(&first, &sin), product(&second, &cos));
    let (real, imaginary) = (b.op("Sub", &[&ac, &bs], vec![]), b.op("Add", &[&at, &bc], vec![]));
    let one = if interleaved { [half, 1] } else { [1, half] };
    let shape = b.ints(&[batch, heads, length, one[0], one[1]]);
    let (real, imaginary) = (b.op("Reshape", &[&real, &shape], vec![]), b.op("Reshape", &[&imaginary, &shape], vec![]));
    let turned = b.op("Concat", &[&real, &imaginary], vec![int("axis", axis)]);
    let y = op.output(0).ok_or_else(|| op.unsupported("its output is left out"))?;
    let shape = b.ints(&[batch, heads, length, 2 * half]);
    if !is_flat {
        b.op_into("Reshape", &[&turned, &shape], vec![], &[y]);
        return Ok(true);
    }
    let by_head = b.op("Reshape", &[&turned, &shape], vec![]);
    let by_sequence = b.op("Transpose", &[&by_head], vec![ints("perm", &[0, 2, 1, 3])]);
    let shape = b.ints(&[batch, length, heads * 2 * half]);
    b.op_into("Reshape", &[&by_sequence, &shape], vec![], &[y]);
    Ok(true)
}
