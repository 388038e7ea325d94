//! Tensors: values that the text lists, and those it leaves out.

use bytes::Bytes;
use half::{bf16, f16};
use planish_proto::onnx::{SparseTensorProto, TensorProto, TypeProto};

use super::{Fill, Parser, Result, Token, ty};
use crate::{
    DType, product,
    text::{fill, is_number_word},
};

/// Type and dims of a tensor whose values follow.
struct Decl {
    dtype: DType,
    dims: Vec<u64>,
    elements: u64,
    /// Bytes of the raw form; 0 for strings.
    bytes: u64,
}

impl<'a> Parser<'a> {
    /// The value after a type and `=`: a list, or nothing, which is then filled.
    pub(super) fn tensor(&mut self, name: &str, ty: &TypeProto, at: usize) -> Result<TensorProto> {
        if self.token == Token::Mark('{') {
            let decl = self.declared(ty, at)?;
            return self.listed(name, &decl);
        }
        let message = match self.token {
            Token::Mark('[') => {
                "external data has no place in a text; list the values, or leave out everything after `=`"
            }
            Token::Mark('.') => {
                "`...` stands for values that were not printed; leave out everything after `=` to fill them"
            }
            _ => return self.left_out(name, ty, at),
        };
        Err(self.error(self.start, message.into()))
    }

    /// A weight whose values are left out.
    pub(super) fn left_out(&mut self, name: &str, ty: &TypeProto, at: usize) -> Result<TensorProto> {
        if self.options.fill == Fill::Refuse {
            return Err(self.error(at, format!("the weight {name:?} has no value")));
        }
        if ty::is_sparse(ty) {
            return Err(self.error(at, format!("the sparse tensor {name:?} has no value, and cannot be filled")));
        }
        let decl = self.declared(ty, at)?;
        let elements = self.budget(&decl, at)?;
        if decl.dtype == DType::String {
            let string_data = fill::strings(name, elements);
            return Ok(TensorProto { string_data, ..empty(name, &decl) });
        }
        let raw = fill::raw(name, decl.dtype, &decl.dims, elements);
        Ok(TensorProto { raw_data: Some(raw.into()), ..empty(name, &decl) })
    }

    /// `{values, indices}` after a sparse type; both are tensors with their own type.
    pub(super) fn sparse(&mut self, name: &str, ty: &TypeProto, at: usize) -> Result<SparseTensorProto> {
        let decl = self.declared(ty, at)?;
        self.expect('{', "`{`, the values and the indices of a sparse tensor")?;
        let values = self.part(name)?;
        self.expect(',', "`,` and the indices of the sparse tensor")?;
        let indices = self.part("")?;
        self.expect('}', "`}`")?;
        Ok(SparseTensorProto { values: Some(values), indices: Some(indices), dims: signed(&decl.dims) })
    }

    fn part(&mut self, name: &str) -> Result<TensorProto> {
        let at = self.start;
        let ty = self.ty()?;
        if self.token != Token::Mark('{') {
            return Err(self.expected("`{` and the values"));
        }
        let decl = self.declared(&ty, at)?;
        self.listed(name, &decl)
    }

    fn declared(&self, ty: &TypeProto, at: usize) -> Result<Decl> {
        let Some((dtype, dims)) = ty::fixed(ty) else {
            let message = "a tensor needs an element type and fixed sizes, as in `float[4,3]`";
            return Err(self.error(at, message.into()));
        };
        let overflow = || self.error(at, format!("the sizes {dims:?} overflow 64 bits"));
        let elements = product(&dims).ok_or_else(overflow)?;
        let bytes = match dtype {
            DType::String => 0,
            _ => dtype.byte_len(elements).ok_or_else(overflow)?,
        };
        Ok(Decl { dtype, dims, elements, bytes })
    }

    /// Number of elements of a tensor that the text does not spell out, if there is room left for it.
    fn budget(&mut self, decl: &Decl, at: usize) -> Result<usize> {
        // What a short string costs in memory.
        let bytes = if decl.dtype == DType::String { decl.elements.saturating_mul(64) } else { decl.bytes };
        let limit = self.options.max_filled;
        self.filled = self.filled.saturating_add(bytes);
        match usize::try_from(decl.elements) {
            Ok(elements) if self.filled <= limit => Ok(elements),
            _ => {
                let message = format!("the weights that the text does not spell out take more than {limit} bytes");
                Err(self.error(at, message))
            }
        }
    }

    /// `{1, 2, …}`
    fn listed(&mut self, name: &str, decl: &Decl) -> Result<TensorProto> {
        let open = self.start;
        self.expect('{', "`{`")?;
        if decl.dtype == DType::String {
            let mut string_data = Vec::new();
            self.elements(|p| {
                string_data.push(p.bytes()?);
                Ok(())
            })?;
            if let ([only], true) = (string_data.as_slice(), decl.elements != 1) {
                string_data = vec![only.clone(); self.budget(decl, open)?];
            }
            self.check_count(string_data.len(), decl.elements, decl, open)?;
            return Ok(TensorProto { string_data, ..empty(name, decl) });
        }
        let raw = match decl.dtype.bits() {
            bits @ 1..8 => self.packed(decl, bits, open)?,
            _ => self.unpacked(decl, open)?,
        };
        Ok(TensorProto { raw_data: Some(raw.into()), ..empty(name, decl) })
    }

    fn unpacked(&mut self, decl: &Decl, open: usize) -> Result<Vec<u8>> {
        let (mut raw, mut count) = (Vec::new(), 0usize);
        self.elements(|p| {
            count += 1;
            p.number(decl.dtype, &mut raw)
        })?;
        let per_element = if matches!(decl.dtype, DType::Complex64 | DType::Complex128) { 2 } else { 1 };
        let wanted = decl.elements.saturating_mul(per_element);
        if count == 1 && wanted > 1 && per_element == 1 {
            return Ok(raw.repeat(self.budget(decl, open)?));
        }
        self.check_count(count, wanted, decl, open)?;
        Ok(raw)
    }

    /// Elements below 8 bits: as many numbers as there are bytes, or as there are elements.
    fn packed(&mut self, decl: &Decl, bits: u64, open: usize) -> Result<Vec<u8>> {
        // Below 8, so these neither truncate nor overflow.
        let range = match decl.dtype {
            DType::I4 | DType::I2 => -(1i64 << (bits - 1))..1i64 << (bits - 1),
            _ => 0..1i64 << bits,
        };
        let mask = (1u8 << bits) - 1;
        let mut numbers: Vec<(i64, usize)> = Vec::new();
        self.elements(|p| {
            let at = p.start;
            numbers.push((p.int()?, at));
            Ok(())
        })?;
        let count = numbers.len() as u64;
        let one_each =
            count == decl.elements && (count != decl.bytes || numbers.iter().all(|(n, _)| range.contains(n)));
        if one_each {
            if let Some((n, at)) = numbers.iter().find(|(n, _)| !range.contains(n)) {
                return Err(self.error(*at, format!("`{n}` does not fit {}", decl.dtype)));
            }
            return Ok(fill::pack(bits as usize, numbers.iter().map(|(n, _)| *n as u8 & mask)));
        }
        self.check_count(numbers.len(), decl.bytes, decl, open)?;
        let byte = |&(n, at): &(i64, usize)| {
            let byte = u8::try_from(n).or_else(|_| i8::try_from(n).map(i8::cast_unsigned));
            byte.map_err(|_| self.error(at, format!("`{n}` is no byte of packed elements")))
        };
        numbers.iter().map(byte).collect()
    }

    /// Everything up to `}`, separated by commas.
    fn elements(&mut self, mut element: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        if self.eat('}')? {
            return Ok(());
        }
        loop {
            element(self)?;
            if !self.eat(',')? {
                return self.expect('}', "`,` or `}`");
            }
        }
    }

    fn check_count(&self, count: usize, wanted: u64, decl: &Decl, open: usize) -> Result<()> {
        if count as u64 == wanted {
            return Ok(());
        }
        let dims = if decl.dims.is_empty() { String::new() } else { format!("{:?}", decl.dims) };
        let message = format!("a tensor {}{dims} takes {wanted} values here, but {count} are listed", decl.dtype);
        Err(self.error(open, message))
    }

    /// One number of a type of 8 bits or more, appended in its raw form.
    fn number(&mut self, dtype: DType, raw: &mut Vec<u8>) -> Result<()> {
        use DType::*;
        match dtype {
            F32 | Complex64 => raw.extend(self.float(str::parse::<f32>, f32::is_infinite)?.to_le_bytes()),
            F64 | Complex128 => raw.extend(self.float(str::parse::<f64>, f64::is_infinite)?.to_le_bytes()),
            F16 if self.at_float() => raw.extend(f16::from_f64(self.double()?).to_le_bytes()),
            BF16 if self.at_float() => raw.extend(bf16::from_f64(self.double()?).to_le_bytes()),
            I64 => raw.extend(self.int()?.to_le_bytes()),
            I32 => raw.extend(self.integer::<i32>(dtype)?.to_le_bytes()),
            I16 => raw.extend(self.integer::<i16>(dtype)?.to_le_bytes()),
            I8 => raw.extend(self.integer::<i8>(dtype)?.to_le_bytes()),
            U64 => raw.extend(self.integer::<u64>(dtype)?.to_le_bytes()),
            U32 => raw.extend(self.integer::<u32>(dtype)?.to_le_bytes()),
            U16 | F16 | BF16 => raw.extend(self.integer::<u16>(dtype)?.to_le_bytes()),
            U8 | F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F8E8M0 => raw.push(self.integer::<u8>(dtype)?),
            Bool => match self.token {
                Token::Int("0" | "1") => raw.push(self.integer::<u8>(dtype)?),
                _ => return Err(self.expected("`0` or `1`")),
            },
            // Strings and packed types are read elsewhere.
            String | I4 | U4 | F4E2M1 | I2 | U2 => return Err(self.expected("no number")),
        }
        Ok(())
    }

    fn integer<T: std::str::FromStr>(&mut self, dtype: DType) -> Result<T> {
        let Token::Int(digits) = self.token else { return Err(self.expected("an integer")) };
        let n = digits.parse().map_err(|_| self.error(self.start, format!("`{digits:.40}` does not fit {dtype}")))?;
        self.advance()?;
        Ok(n)
    }

    fn at_float(&self) -> bool {
        match self.token {
            Token::Float(_) => true,
            Token::Word(w) => is_number_word(w),
            _ => false,
        }
    }

    fn double(&mut self) -> Result<f64> {
        self.float(str::parse::<f64>, f64::is_infinite)
    }

    /// A number with or without a decimal point. Too large ones are refused, too small ones become zero.
    pub(super) fn float<T: Copy, E>(
        &mut self,
        parse: impl Fn(&'a str) -> Result<T, E>,
        is_infinite: impl Fn(T) -> bool,
    ) -> Result<T> {
        let digits = match self.token {
            Token::Int(s) | Token::Float(s) => s,
            Token::Word(w) if is_number_word(w) => w,
            _ => return Err(self.expected("a number")),
        };
        let n = parse(digits).map_err(|_| self.error(self.start, format!("`{digits:.40}` is not a number")))?;
        if is_infinite(n) && digits.bytes().any(|b| b.is_ascii_digit()) {
            return Err(self.error(self.start, format!("`{digits:.40}` is too large; write `inf` for infinity")));
        }
        self.advance()?;
        Ok(n)
    }

    /// A string in quotes or in hexadecimal.
    pub(super) fn bytes(&mut self) -> Result<Bytes> {
        let bytes = match &mut self.token {
            Token::Text(t) => Bytes::from(std::mem::take(t).into_owned()),
            Token::Bytes(b) => Bytes::from(std::mem::take(b)),
            _ => return Err(self.expected("a string in quotes")),
        };
        self.advance()?;
        Ok(bytes)
    }
}

fn empty(name: &str, decl: &Decl) -> TensorProto {
    let name = (!name.is_empty()).then(|| name.to_owned());
    TensorProto { dims: signed(&decl.dims), data_type: Some(decl.dtype.code()), name, ..Default::default() }
}

fn signed(dims: &[u64]) -> Vec<i64> {
    // They were parsed as signed numbers.
    dims.iter().map(|&d| i64::try_from(d).unwrap_or(i64::MAX)).collect()
}
