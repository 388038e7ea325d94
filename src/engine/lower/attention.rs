//! `Attention` (opset 23 on), and `Attention` and `MultiHeadAttention` of `com.microsoft`, as the products, sums and softmax
//! that they stand for.

use planish_ir::{DType, Tensor};
use planish_passes::EngineError;

use super::{
    build::{Builder, int, ints},
    scope::Op,
};
use crate::engine::program::failed;

/// Sizes of the axes: batch, heads of the queries and of keys and values, queries, elements of a query head.
struct Sizes {
    batch: i64,
    heads: i64,
    key_heads: i64,
    queries: i64,
    past: i64,
    keys: i64,
    depth: i64,
    value_depth: i64,
    /// Heads lie within the last of three axes, and have to be split off.
    flat: bool,
}

/// `softmax(softcap(scale * Q Kᵀ) + bias) V`, where the bias holds the mask and the causal order.
pub(super) fn expand(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    match (op.domain(), op.name()) {
        ("", "Attention") => standard(op, b),
        ("com.microsoft", "MultiHeadAttention") => multi_head(op, b),
        ("com.microsoft", "Attention" | "QAttention") => projected(op, b),
        _ => Ok(false),
    }
}

fn standard(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let sizes = sizes(op)?;
    let q = heads(b, op.required(0)?, &sizes, sizes.heads, sizes.depth);
    let k = with_past(op, b, 1, &sizes, sizes.depth)?;
    let v = with_past(op, b, 2, &sizes, sizes.value_depth)?;
    let causal = op.int("is_causal", 0) != 0;
    let bias = bias(op, b, &sizes, 3, causal)?;
    by_head(op, b, &sizes, [q, k, v], bias)
}

/// From operands of the axes `[batch, heads, length, depth]`.
fn by_head(
    op: &Op<'_>,
    b: &mut Builder<'_>,
    sizes: &Sizes,
    qkv: [String; 3],
    bias: Option<String>,
) -> Result<bool, EngineError> {
    // The quantized one computes in the type of its scale.
    let dtype = op.dtype(if is_quantized(op) { 3 } else { 0 }).unwrap_or(DType::F32);
    let [q, k, v] = qkv.map(|t| if dtype == DType::F32 { t } else { b.cast(&t, DType::F32) });
    let (k, v) = (repeated(b, &k, sizes, sizes.depth), repeated(b, &v, sizes, sizes.value_depth));

    // Half of the scale on either side, as the definition has it, keeps the product small.
    let scale = f64::from(op.float("scale", (sizes.depth as f64).sqrt().recip() as f32)).sqrt();
    let scale = b.float(DType::F32, scale)?;
    let q = b.op("Mul", &[&q, &scale], vec![]);
    let k = b.op("Transpose", &[&k], vec![ints("perm", &[0, 1, 3, 2])]);
    let k = b.op("Mul", &[&k, &scale], vec![]);
    let mut scores = b.op("MatMul", &[&q, &k], vec![]);
    let softcap = op.float("softcap", 0.0);
    if softcap != 0.0 {
        let cap = b.float(DType::F32, f64::from(softcap))?;
        scores = b.op("Div", &[&scores, &cap], vec![]);
        scores = b.op("Tanh", &[&scores], vec![]);
        scores = b.op("Mul", &[&scores, &cap], vec![]);
    }
    let mut weights = match bias {
        None => b.op("Softmax", &[&scores], vec![int("axis", -1)]),
        Some(bias) => {
            scores = b.op("Add", &[&scores, &bias], vec![]);
            let softmax = b.op("Softmax", &[&scores], vec![int("axis", -1)]);
            without_masked_rows(op, b, &softmax, &bias)?
        }
    };
    weights = b.op("MatMul", &[&weights, &v], vec![]);
    if sizes.flat {
        weights = b.op("Transpose", &[&weights], vec![ints("perm", &[0, 2, 1, 3])]);
        let shape = b.ints(&[sizes.batch, sizes.queries, sizes.heads * sizes.value_depth]);
        weights = b.op("Reshape", &[&weights, &shape], vec![]);
    }
    let y = op.output(0).ok_or_else(|| op.unsupported("its output is left out"))?;
    b.op_into("Cast", &[&weights], vec![int("to", i64::from(dtype.code()))], &[y]);
    Ok(true)
}

/// What both operators of `com.microsoft` share: attributes and operands that are known, and a scale of 0 for the usual one.
fn check_microsoft(op: &Op<'_>, known_inputs: &[usize], known_attributes: &[&str]) -> Result<i64, EngineError> {
    let unknown = (0..10).find(|slot| !known_inputs.contains(slot) && op.input(*slot).is_some());
    if let Some(slot) = unknown {
        return Err(op.unsupported(format!("its input {slot} is given")));
    }
    if (1..4).any(|slot| op.output(slot).is_some()) {
        return Err(op.unsupported("keys and values of the past, or its scores, are asked for"));
    }
    let name = |a: &planish_proto::onnx::AttributeProto| a.name.clone().unwrap_or_default();
    if let Some(other) = op.node.attribute.iter().map(name).find(|n| !known_attributes.contains(&n.as_str())) {
        return Err(op.unsupported(format!("its attribute {other:?} is given")));
    }
    if op.attribute("scale").is_some() && op.float("scale", 0.0) <= 0.0 {
        return Err(op.unsupported("its scale is not positive"));
    }
    match op.int("num_heads", 0) {
        n if n > 0 => Ok(n),
        _ => Err(op.unsupported("the number of heads is not given")),
    }
}

pub(super) fn fixed(op: &Op<'_>, slot: usize) -> Result<Vec<i64>, EngineError> {
    let dims: Option<Vec<i64>> =
        op.shape(slot).and_then(|s| s.into_iter().map(|d| d.and_then(|d| i64::try_from(d).ok())).collect());
    dims.ok_or_else(|| op.unsupported(format!("the shape of its input {slot} is not known")))
}

/// Queries of three axes; keys and values of three, or of four with the heads split off.
fn multi_head(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let heads_of = check_microsoft(op, &[0, 1, 2, 5], &["num_heads", "scale", "unidirectional"])?;
    let (q, k, v) = (fixed(op, 0)?, fixed(op, 1)?, fixed(op, 2)?);
    let &[batch, queries, width] = q.as_slice() else { return Err(op.unsupported("its queries have not three axes")) };
    let per_head = |size: i64| size.checked_div(heads_of).unwrap_or(0);
    let (keys, value_depth, is_flat) = match (k.as_slice(), v.as_slice()) {
        (&[_, keys, _], &[_, _, value_width]) => (keys, per_head(value_width), true),
        (&[_, _, keys, _], &[_, _, _, value_depth]) => (keys, value_depth, false),
        _ => return Err(op.unsupported("its keys and values have neither three nor four axes")),
    };
    let depth = per_head(width);
    let sizes =
        Sizes { batch, heads: heads_of, key_heads: heads_of, queries, past: 0, keys, depth, value_depth, flat: true };
    let q = heads(b, op.required(0)?, &sizes, heads_of, depth);
    let operands = Sizes { flat: is_flat, ..sizes };
    let k = heads(b, op.required(1)?, &operands, heads_of, depth);
    let v = heads(b, op.required(2)?, &operands, heads_of, value_depth);
    let causal = op.int("unidirectional", 0) != 0;
    if causal && queries != keys {
        return Err(op.unsupported("which keys a query sees is not known where they differ in number"));
    }
    let bias = bias(op, b, &sizes, 5, causal)?;
    by_head(op, b, &sizes, [q, k, v], bias)
}

fn is_quantized(op: &Op<'_>) -> bool {
    op.name() == "QAttention"
}

/// Projects queries, keys and values by weights that lie beside each other.
fn projected(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let known: &[usize] = if is_quantized(op) { &[0, 1, 2, 3, 4, 6, 7] } else { &[0, 1, 2, 5] };
    let heads_of = check_microsoft(op, known, &["num_heads", "scale", "unidirectional"])?;
    let (x, w) = (fixed(op, 0)?, fixed(op, 1)?);
    let (&[batch, length, _], &[_, columns]) = (x.as_slice(), w.as_slice()) else {
        return Err(op.unsupported("its input has not three axes, or its weights not two"));
    };
    let width = columns / 3;
    if columns % 3 != 0 || width % heads_of != 0 {
        return Err(op.unsupported("its weights do not divide into heads"));
    }
    let depth = width / heads_of;
    let sizes = Sizes {
        batch,
        heads: heads_of,
        key_heads: heads_of,
        queries: length,
        past: 0,
        keys: length,
        depth,
        value_depth: depth,
        flat: true,
    };
    let mut product = match is_quantized(op) {
        true => {
            let scalars = [op.input(6).unwrap_or(""), op.input(7).unwrap_or("")];
            let product = b.op("MatMulInteger", &[op.required(0)?, op.required(1)?, scalars[0], scalars[1]], vec![]);
            let unit = b.op("Mul", &[op.required(3)?, op.required(4)?], vec![]);
            let unit = b.cast(&unit, DType::F32);
            let product = b.cast(&product, DType::F32);
            b.op("Mul", &[&product, &unit], vec![])
        }
        false => b.op("MatMul", &[op.required(0)?, op.required(1)?], vec![]),
    };
    if let Some(offset) = op.input(2) {
        let offset = if is_quantized(op) { b.cast(offset, DType::F32) } else { offset.to_owned() };
        product = b.op("Add", &[&product, &offset], vec![]);
    }
    let mut piece = |i: i64| {
        let (start, end, axis) = (b.ints(&[i * width]), b.ints(&[(i + 1) * width]), b.ints(&[2]));
        let part = b.op("Slice", &[&product, &start, &end, &axis], vec![]);
        heads(b, &part, &sizes, heads_of, depth)
    };
    let qkv = [piece(0), piece(1), piece(2)];
    // A slot that the quantized one does not have.
    let slot = if is_quantized(op) { 9 } else { 5 };
    let bias = bias(op, b, &sizes, slot, op.int("unidirectional", 0) != 0)?;
    by_head(op, b, &sizes, qkv, bias)
}

fn sizes(op: &Op<'_>) -> Result<Sizes, EngineError> {
    if op.output(3).is_some() {
        return Err(op.unsupported("its scores are asked for"));
    }
    if op.input(6).is_some()
        || op.attribute("left_window_size").is_some()
        || op.attribute("right_window_size").is_some()
    {
        return Err(op.unsupported("its keys are padded or windowed"));
    }
    let shape = |slot: usize| fixed(op, slot);
    let past = match op.input(4) {
        Some(_) => shape(4)?.get(2).copied().unwrap_or(0),
        None => 0,
    };
    if past > 0 && op.int("is_causal", 0) != 0 && op.scope.opset() < 24 {
        return Err(op.unsupported("which keys of the past a query sees is not defined before opset 24"));
    }
    let (heads, key_heads) = (op.int("q_num_heads", 0), op.int("kv_num_heads", 0));
    let per_head = |size: i64, heads: i64| size.checked_div(heads).unwrap_or(0);
    let sizes = match (shape(0)?.as_slice(), shape(1)?.as_slice(), shape(2)?.as_slice()) {
        (&[batch, heads, queries, depth], &[_, key_heads, keys, _], &[.., value_depth]) => {
            Sizes { batch, heads, key_heads, queries, past, keys: past + keys, depth, value_depth, flat: false }
        }
        (&[batch, queries, width], &[_, keys, _], &[.., value_width]) => Sizes {
            batch,
            heads,
            key_heads,
            queries,
            past,
            keys: past + keys,
            depth: per_head(width, heads),
            value_depth: per_head(value_width, key_heads),
            flat: true,
        },
        _ => return Err(op.unsupported("its inputs have neither three nor four axes")),
    };
    if sizes.key_heads <= 0 || sizes.heads % sizes.key_heads != 0 {
        return Err(op.unsupported("the number of query heads is no multiple of that of key heads"));
    }
    Ok(sizes)
}

/// `[batch, heads, length, depth]`.
fn heads(b: &mut Builder<'_>, value: &str, sizes: &Sizes, heads: i64, depth: i64) -> String {
    if !sizes.flat {
        return value.to_owned();
    }
    let shape = b.ints(&[0, 0, heads, depth]);
    let split = b.op("Reshape", &[value, &shape], vec![]);
    b.op("Transpose", &[&split], vec![ints("perm", &[0, 2, 1, 3])])
}

/// Keys (slot 1) or values (slot 2) behind those of the past (slots 4 and 5), which are handed out as well.
fn with_past(op: &Op<'_>, b: &mut Builder<'_>, slot: usize, sizes: &Sizes, depth: i64) -> Result<String, EngineError> {
    let own = heads(b, op.required(slot)?, sizes, sizes.key_heads, depth);
    let all = match op.input(slot + 3) {
        Some(past) => b.op("Concat", &[past, &own], vec![int("axis", 2)]),
        None => own,
    };
    if let Some(present) = op.output(slot) {
        b.op_into("Identity", &[&all], vec![], &[present]);
    }
    Ok(all)
}

/// Each key head serves several query heads that follow each other.
fn repeated(b: &mut Builder<'_>, value: &str, s: &Sizes, depth: i64) -> String {
    if s.heads == s.key_heads {
        return value.to_owned();
    }
    let apart = b.ints(&[s.batch, s.key_heads, 1, s.keys, depth]);
    let apart = b.op("Reshape", &[value, &apart], vec![]);
    let shape = b.ints(&[s.batch, s.key_heads, s.heads / s.key_heads, s.keys, depth]);
    let expanded = b.op("Expand", &[&apart, &shape], vec![]);
    let shape = b.ints(&[s.batch, s.heads, s.keys, depth]);
    b.op("Reshape", &[&expanded, &shape], vec![])
}

/// What is added to the scores.
fn bias(op: &Op<'_>, b: &mut Builder<'_>, s: &Sizes, slot: usize, causal: bool) -> Result<Option<String>, EngineError> {
    let mask = match op.input(slot) {
        None => None,
        Some(_) if op.shape(slot).and_then(|s| s.last().copied().flatten()) != u64::try_from(s.keys).ok() => {
            return Err(op.unsupported("its mask does not cover all keys"));
        }
        Some(mask) if op.dtype(slot) == Some(DType::Bool) => {
            let (zero, masked) = (b.float(DType::F32, 0.0)?, b.float(DType::F32, f64::NEG_INFINITY)?);
            Some(b.op("Where", &[mask, &zero, &masked], vec![]))
        }
        Some(mask) => Some(b.cast(mask, DType::F32)),
    };
    if !causal {
        return Ok(mask);
    }
    let rows = (0..s.queries).flat_map(|q| (0..s.keys).map(move |k| (q, k)));
    let values: Vec<f32> = rows.map(|(q, k)| if k > q + s.past { f32::NEG_INFINITY } else { 0.0 }).collect();
    let dims = [s.queries.unsigned_abs(), s.keys.unsigned_abs()];
    let causal = b.constant(Tensor::from_f32(dims.as_slice(), &values).map_err(|e| failed(e.to_string()))?);
    Ok(Some(match mask {
        Some(mask) => b.op("Add", &[&mask, &causal], vec![]),
        None => causal,
    }))
}

/// A query that sees no key gets weights of zero, where softmax has none to give.
fn without_masked_rows(op: &Op<'_>, b: &mut Builder<'_>, softmax: &str, bias: &str) -> Result<String, EngineError> {
    let (zero, masked) = (b.float(DType::F32, 0.0)?, b.float(DType::F32, f64::NEG_INFINITY)?);
    let largest = if op.scope.opset() < 18 {
        b.op("ReduceMax", &[bias], vec![ints("axes", &[-1]), int("keepdims", 1)])
    } else {
        let axes = b.ints(&[-1]);
        b.op("ReduceMax", &[bias, &axes], vec![int("keepdims", 1)])
    };
    let none = b.op("Equal", &[&largest, &masked], vec![]);
    Ok(b.op("Where", &[&none, &zero, softmax], vec![]))
}
