//! One array of an `.npy` file or of an `.npz` member as a tensor.

use std::io::Read;

use anyhow::{Context, Result, bail, ensure};
use npyz::{Endianness, NpyFile, Order, TypeChar};
use planish_ir::{DType, Dims, Tensor, product};

/// Element type and shape of an array, without its elements.
pub(super) fn head(reader: impl Read) -> Result<(DType, Dims)> {
    let file = NpyFile::new(reader).context("this is no .npy array")?;
    Ok((element_type(&plain(&file)?)?, Dims::from_slice(file.shape())))
}

/// Reads an array of numbers or bools, of either byte order and layout.
pub(super) fn read(reader: impl Read) -> Result<Tensor> {
    let file = NpyFile::new(reader).context("this is no .npy array")?;
    let element = plain(&file)?;
    let dtype = element_type(&element)?;
    let dims = Dims::from_slice(file.shape());
    let order = file.order();
    let bytes = product(&dims).and_then(|n| dtype.byte_len(n)).context("its shape is larger than any memory")?;
    // Grown as bytes arrive: the header's word is not enough to reserve memory on.
    let mut data = Vec::new();
    file.into_inner().take(bytes).read_to_end(&mut data)?;
    ensure!(data.len() as u64 == bytes, "it ends after {} of {bytes} bytes", data.len());
    let width = usize::try_from(dtype.bits() / 8)?;
    if element.endianness() == Endianness::Big {
        data.chunks_exact_mut(width).for_each(<[u8]>::reverse);
    }
    if order == Order::Fortran && dims.len() > 1 {
        data = to_row_major(&data, &dims, width)?;
    }
    if dtype == DType::Bool {
        data.iter_mut().for_each(|b| *b = u8::from(*b != 0));
    }
    Ok(Tensor::from_raw(dtype, dims, data.into())?)
}

fn plain<R: Read>(file: &NpyFile<R>) -> Result<npyz::TypeStr> {
    match file.dtype() {
        npyz::DType::Plain(element) => Ok(element),
        _ => bail!("it is a structured array; save each field as an array of its own"),
    }
}

fn element_type(t: &npyz::TypeStr) -> Result<DType> {
    Ok(match (t.type_char(), t.size_field()) {
        (TypeChar::Bool, 1) => DType::Bool,
        (TypeChar::Int, 1) => DType::I8,
        (TypeChar::Int, 2) => DType::I16,
        (TypeChar::Int, 4) => DType::I32,
        (TypeChar::Int, 8) => DType::I64,
        (TypeChar::Uint, 1) => DType::U8,
        (TypeChar::Uint, 2) => DType::U16,
        (TypeChar::Uint, 4) => DType::U32,
        (TypeChar::Uint, 8) => DType::U64,
        (TypeChar::Float, 2) => DType::F16,
        (TypeChar::Float, 4) => DType::F32,
        (TypeChar::Float, 8) => DType::F64,
        _ => bail!("its elements are {t}; only bools, integers and floats of 16 to 64 bits can be samples"),
    })
}

/// Column-major to row-major.
fn to_row_major(data: &[u8], dims: &[u64], width: usize) -> Result<Vec<u8>> {
    let dims: Vec<usize> = dims.iter().map(|&d| usize::try_from(d)).collect::<Result<_, _>>()?;
    let mut out = Vec::with_capacity(data.len());
    // Strides of the source in elements: the first axis is the fastest.
    let strides: Vec<usize> = dims.iter().scan(1, |s, &d| Some(std::mem::replace(s, *s * d))).collect();
    let mut index = vec![0usize; dims.len()];
    let mut at = 0usize;
    while out.len() < data.len() {
        let start = at * width;
        out.extend_from_slice(data.get(start..start + width).context("the array is shorter than its shape")?);
        for axis in (0..dims.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < dims[axis] {
                break;
            }
            at -= strides[axis] * dims[axis];
            index[axis] = 0;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that numpy writes for an array with this header.
    fn npy(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
        let order = if fortran { "True" } else { "False" };
        let mut header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}");
        while !(header.len() + 11).is_multiple_of(64) {
            header.push(' ');
        }
        header.push('\n');
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.as_bytes());
        file.extend(data);
        file
    }

    #[test]
    fn byte_order_and_layout_do_not_matter() {
        let plain = read(&npy("<i2", false, "(2, 3)", &[0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0])[..]).unwrap();
        assert_eq!(plain.to_i64().unwrap(), [0, 1, 2, 3, 4, 5]);
        let big = read(&npy(">i2", false, "(2, 3)", &[0, 0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5])[..]).unwrap();
        assert_eq!(big, plain);
        let fortran = read(&npy("<i2", true, "(2, 3)", &[0, 0, 3, 0, 1, 0, 4, 0, 2, 0, 5, 0])[..]).unwrap();
        assert_eq!(fortran, plain);
        let scalar = read(&npy("|u1", false, "()", &[7])[..]).unwrap();
        assert_eq!((scalar.rank(), scalar.single_i64()), (0, Some(7)));
    }

    #[test]
    fn broken_arrays_are_refused() {
        let short = read(&npy("<f4", false, "(2,)", &[0; 7])[..]).unwrap_err();
        assert_eq!(short.to_string(), "it ends after 7 of 8 bytes");
        assert!(read(&npy("|S3", false, "(1,)", b"abc")[..]).unwrap_err().to_string().contains("only bools"));
        assert!(read(&b"not an array"[..]).is_err());
    }
}
