//! Element types of ONNX tensors (`TensorProto.DataType` up to IR version 13).

use std::fmt;

macro_rules! dtypes {
    ($($variant:ident = $code:literal, $bits:literal, $text:literal;)*) => {
        /// Element type of a tensor. Sub-byte types are packed, the first element in the low bits of the byte.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[expect(missing_docs, reason = "each variant is the ONNX type of that name")]
        pub enum DType { $($variant,)* }

        impl DType {
            /// Every element type, in the order of their ONNX codes.
            pub const ALL: &'static [DType] = &[$(DType::$variant,)*];

            /// The code that `TensorProto.data_type` and `Cast.to` use.
            pub const fn code(self) -> i32 {
                match self { $(DType::$variant => $code,)* }
            }

            /// The type with this code; `None` for 0 (undefined) and for codes that this version does not know.
            pub const fn from_code(code: i32) -> Option<DType> {
                match code { $($code => Some(DType::$variant),)* _ => None }
            }

            /// Bits of one element in `raw_data`; 0 for strings, which have no raw form.
            pub const fn bits(self) -> u64 {
                match self { $(DType::$variant => $bits,)* }
            }

            /// The name in ONNX's textual syntax, such as `float` or `int64`.
            pub const fn name(self) -> &'static str {
                match self { $(DType::$variant => $text,)* }
            }
        }
    };
}

dtypes! {
    F32 = 1, 32, "float";
    U8 = 2, 8, "uint8";
    I8 = 3, 8, "int8";
    U16 = 4, 16, "uint16";
    I16 = 5, 16, "int16";
    I32 = 6, 32, "int32";
    I64 = 7, 64, "int64";
    String = 8, 0, "string";
    Bool = 9, 8, "bool";
    F16 = 10, 16, "float16";
    F64 = 11, 64, "double";
    U32 = 12, 32, "uint32";
    U64 = 13, 64, "uint64";
    Complex64 = 14, 64, "complex64";
    Complex128 = 15, 128, "complex128";
    BF16 = 16, 16, "bfloat16";
    F8E4M3FN = 17, 8, "float8e4m3fn";
    F8E4M3FNUZ = 18, 8, "float8e4m3fnuz";
    F8E5M2 = 19, 8, "float8e5m2";
    F8E5M2FNUZ = 20, 8, "float8e5m2fnuz";
    U4 = 21, 4, "uint4";
    I4 = 22, 4, "int4";
    F4E2M1 = 23, 4, "float4e2m1";
    F8E8M0 = 24, 8, "float8e8m0";
    U2 = 25, 2, "uint2";
    I2 = 26, 2, "int2";
}

impl DType {
    /// Bytes of `raw_data` that `elements` elements take; `None` for strings and on overflow.
    pub const fn byte_len(self, elements: u64) -> Option<u64> {
        if matches!(self, DType::String) {
            return None;
        }
        match elements.checked_mul(self.bits()) {
            Some(bits) => Some(bits.div_ceil(8)),
            None => None,
        }
    }

    /// The type with this name in ONNX's textual syntax.
    pub fn from_name(name: &str) -> Option<DType> {
        DType::ALL.iter().copied().find(|d| d.name() == name)
    }

    /// Floating point of any width (not complex).
    pub const fn is_float(self) -> bool {
        use DType::*;
        matches!(self, F32 | F16 | F64 | BF16 | F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F4E2M1 | F8E8M0)
    }

    /// Signed or unsigned integer of any width (not bool).
    pub const fn is_integer(self) -> bool {
        use DType::*;
        matches!(self, U8 | I8 | U16 | I16 | I32 | I64 | U32 | U64 | U4 | I4 | U2 | I2)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_go_both_ways() {
        for &d in DType::ALL {
            assert_eq!(DType::from_code(d.code()), Some(d));
            assert_eq!(DType::from_name(d.name()), Some(d));
        }
        assert_eq!(DType::from_code(0), None);
        assert_eq!(DType::I4.byte_len(3), Some(2));
        assert_eq!(DType::F64.byte_len(u64::MAX), None);
    }
}
