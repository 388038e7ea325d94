//! The functions of the rule language.

macro_rules! functions {
    ($($variant:ident $name:literal $least:literal $most:literal $doc:literal;)*) => {
        /// A function that expressions can call.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Function { $(#[doc = $doc] $variant,)* }

        /// Name, function, fewest and most arguments.
        pub(super) static FUNCTIONS: &[(&str, Function, usize, usize)] =
            &[$(($name, Function::$variant, $least, $most),)*];
    };
}

functions! {
    Rank "rank" 1 1 "Number of axes of a value.";
    Dim "dim" 2 2 "Size of one axis; negative ones count from the end.";
    Shape "shape" 1 1 "Sizes of all axes.";
    Dtype "dtype" 1 1 "Element type.";
    IsFloat "float" 1 1 "True for float, double, float16 and bfloat16.";
    IsConstant "constant" 1 1 "True for a constant.";
    Scalar "value" 1 1 "The number that all elements of a constant are.";
    Values "values" 1 1 "The elements of a constant, at most 4096.";
    Elements "elements" 1 1 "Number of elements.";
    SameShape "same_shape" 2 2 "True if both have the same shape.";
    SameType "same_type" 2 2 "True if both have the same element type.";
    BroadcastsTo "broadcasts_to" 2 2 "True if the first one can be stretched to the shape of the second one.";
    Readers "readers" 1 1 "How many read a value; a graph output counts as one.";
    MadeBy "made_by" 2 2 "True if the value is made by this operator of ai.onnx, or `domain::Op`.";
    LastAxis "last_axis" 2 2 "True if an axis, or a list of one axis, is the last one of a value.";
    LastAxes "last_axes" 2 2 "True if a list of axes holds the last ones of a value.";
    Length "length" 1 1 "Number of elements of a list.";
    Product "product" 1 1 "Product of a list.";
    Repeat "repeat" 2 2 "A list that holds a number so many times, at most 65536.";
    Abs "abs" 1 1 "Absolute value.";
    Min "min" 2 2 "The lesser one.";
    Max "max" 2 2 "The greater one.";
    Transpose "transpose" 2 2 "A constant with its axes in another order.";
    Reshape "reshape" 2 2 "A constant with other sizes.";
    Concat "concat" 2 9 "Constants joined along an axis, which comes last.";
    Cast "cast" 2 2 "A constant with another element type.";
    Add "add" 2 2 "Sum of constants or numbers.";
    Sub "sub" 2 2 "Difference of constants or numbers.";
    Mul "mul" 2 2 "Product of constants or numbers.";
    Div "div" 2 2 "Quotient of constants or numbers.";
    Neg "neg" 1 1 "Negative.";
    Sqrt "sqrt" 1 1 "Square root.";
    Reciprocal "reciprocal" 1 1 "One divided by it.";
}
