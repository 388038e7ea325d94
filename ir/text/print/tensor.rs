//! Tensors: their values, or what is worth knowing about them.

use half::{bf16, f16};

use super::{
    Entry, PrintOptions,
    token::{Float, Id, QuotedBytes},
};
use crate::{DType, SparseTensor, Tensor};

/// Tensors of at most this many elements always show their values.
const SMALL: u64 = 16;

/// Hexadecimal digits of a digest: 48 bits, so that among a thousand weights two look the same once in 500 million
/// models.
const DIGITS: usize = 12;

/// A weight or default in the `<…>` of a graph.
pub(super) fn entry(t: &Tensor, name: Id<'_>, is_default: bool, options: PrintOptions) -> Entry {
    let (ty, comments) = (tensor_type(t), options.digests);
    if options.full || t.elements() <= SMALL {
        let comment = if comments { readable(t) } else { None };
        return Entry { text: format!("{ty} {name} = {}", values(t)), comment };
    }
    // Without `=`, the entry would be read as the type of the input.
    let text = if is_default { format!("{ty} {name} =") } else { format!("{ty} {name}") };
    Entry { text, comment: comments.then(|| summary(t)) }
}

/// A tensor in an attribute.
pub(super) fn in_attribute(t: &Tensor, options: PrintOptions) -> String {
    let ty = tensor_type(t);
    match options.full || t.elements() <= SMALL {
        true => format!("{ty} {}", values(t)),
        // A comment does not fit into a line, so that the name has to tell. It also is what the text is filled from.
        false if options.digests => format!("{ty} digest_{} =", digest(t)),
        false => format!("{ty} ="),
    }
}

/// The type of a tensor in coordinate form.
pub(super) fn sparse_type(t: &SparseTensor) -> String {
    format!("sparse_tensor({}{})", t.values.dtype(), dims(&t.dims))
}

/// Values and indices of a tensor in coordinate form, which are always shown.
pub(super) fn sparse_values(t: &SparseTensor) -> String {
    let part = |t: &Tensor| format!("{} {}", tensor_type(t), values(t));
    format!("{{{}, {}}}", part(&t.values), part(&t.indices))
}

fn tensor_type(t: &Tensor) -> String {
    format!("{}{}", t.dtype(), dims(t.dims()))
}

fn dims(dims: &[u64]) -> String {
    match dims {
        [] => String::new(),
        dims => format!("[{}]", join(",", dims.iter())),
    }
}

/// `{1.0, 2.0}`; narrow types as in `TensorProto.int32_data`.
fn values(t: &Tensor) -> String {
    use DType::*;
    if let Some(strings) = t.strings() {
        return list(strings.iter().map(QuotedBytes));
    }
    let bytes: &[u8] = t.raw().map_or(&[], |b| b);
    match t.dtype() {
        F32 | Complex64 => list(chunks(bytes).map(|c| Float(f32::from_le_bytes(c)))),
        F64 | Complex128 => list(chunks(bytes).map(|c| Float(f64::from_le_bytes(c)))),
        I64 => list(chunks(bytes).map(i64::from_le_bytes)),
        I32 => list(chunks(bytes).map(i32::from_le_bytes)),
        I16 => list(chunks(bytes).map(i16::from_le_bytes)),
        I8 => list(bytes.iter().map(|b| b.cast_signed())),
        U64 => list(chunks(bytes).map(u64::from_le_bytes)),
        U32 => list(chunks(bytes).map(u32::from_le_bytes)),
        U16 | F16 | BF16 => list(chunks(bytes).map(u16::from_le_bytes)),
        // Some writers store other bytes than 1 for "true".
        Bool => list(bytes.iter().map(|b| u8::from(*b != 0))),
        _ => list(bytes.iter()),
    }
}

/// The values of a type whose form in the list is a bit pattern, where it is an integer or a 16-bit float.
fn readable(t: &Tensor) -> Option<String> {
    let bytes: &[u8] = t.raw()?;
    let elements = usize::try_from(t.elements()).ok()?;
    let unpacked = |bits: usize| {
        let per_byte = 8 / bits;
        let places = bytes.iter().flat_map(move |b| (0..per_byte).map(move |i| b << (8 - bits * (i + 1))));
        places.take(elements).map(move |b| (b, 8 - bits))
    };
    let shown = match t.dtype() {
        DType::F16 => join(", ", chunks(bytes).map(|c| Float(f16::from_le_bytes(c).to_f32()))),
        DType::BF16 => join(", ", chunks(bytes).map(|c| Float(bf16::from_le_bytes(c).to_f32()))),
        DType::I4 => join(", ", unpacked(4).map(|(b, shift)| b.cast_signed() >> shift)),
        DType::U4 => join(", ", unpacked(4).map(|(b, shift)| b >> shift)),
        DType::I2 => join(", ", unpacked(2).map(|(b, shift)| b.cast_signed() >> shift)),
        DType::U2 => join(", ", unpacked(2).map(|(b, shift)| b >> shift)),
        _ => return None,
    };
    (!shown.is_empty()).then_some(shown)
}

/// `9f2c01ab34cd, 108 elements, 37 % zeros`
fn summary(t: &Tensor) -> String {
    let elements = t.elements();
    let zeros = zeros(t);
    let share = match zeros.saturating_mul(100).checked_div(elements) {
        _ if zeros == 0 => String::new(),
        Some(0) | None => ", under 1 % zeros".to_owned(),
        Some(percent) => format!(", {percent} % zeros"),
    };
    format!("{}, {elements} elements{share}", digest(t))
}

fn digest(t: &Tensor) -> String {
    let mut hex = t.digest().to_hex().to_string();
    hex.truncate(DIGITS);
    hex
}

/// Number of elements that are zero, of either sign. Strings have none.
fn zeros(t: &Tensor) -> u64 {
    use DType::*;
    let bytes: &[u8] = t.raw().map_or(&[], |b| b);
    let count = match t.dtype() {
        F32 => chunks(bytes).filter(|c| f32::from_le_bytes(*c) == 0.0).count(),
        F64 => chunks(bytes).filter(|c| f64::from_le_bytes(*c) == 0.0).count(),
        F16 | BF16 => chunks(bytes).filter(|c| u16::from_le_bytes(*c) << 1 == 0).count(),
        U4 | I4 | F4E2M1 | U2 | I2 => return packed_zeros(t, bytes),
        String => 0,
        other => {
            let size = usize::try_from(other.bits() / 8).unwrap_or(1).max(1);
            bytes.chunks(size).filter(|c| c.iter().all(|b| *b == 0)).count()
        }
    };
    count as u64
}

fn packed_zeros(t: &Tensor, bytes: &[u8]) -> u64 {
    let bits = u32::try_from(t.dtype().bits()).unwrap_or(8);
    let mask = u8::MAX >> (8 - bits);
    // The sign of a 4-bit float makes no difference to zero.
    let mask = if t.dtype() == DType::F4E2M1 { mask >> 1 } else { mask };
    let places = bytes.iter().flat_map(|b| (0..8 / bits).map(move |i| b >> (bits * i) & mask));
    let mut count = 0;
    // The last byte may have places for more elements than there are.
    for (_, element) in (0..t.elements()).zip(places) {
        count += u64::from(element == 0);
    }
    count
}

fn list<T: std::fmt::Display>(items: impl Iterator<Item = T>) -> String {
    format!("{{{}}}", join(", ", items))
}

fn join<T: std::fmt::Display>(separator: &str, items: impl Iterator<Item = T>) -> String {
    let mut text = String::new();
    for (i, item) in items.enumerate() {
        if i > 0 {
            text.push_str(separator);
        }
        text.push_str(&item.to_string());
    }
    text
}

fn chunks<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}
