use super::*;

#[test]
fn plain() {
    let m = parse(r#"<ir_version: 8, opset_import: ["" : 17]>
g (float[N,3,8,8] x) => (float[N,4,8,8] y)
<float[4,3,3,3] w>
{
  [conv1] c = Conv <pads = [1,1,1,1]> (x, w)
  y = Relu (c)
}"#).unwrap();
    println!("{}", print(&m));
    println!("{}", print_with(&m, PrintOptions::full()));
}
