use super::*;

#[test]
fn every_id_has_one_name() {
    let mut names: Vec<_> = ALL.iter().map(|id| id.name().expect("a name")).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ALL.len());
    assert_eq!(MethodId::BASIC_PUBLISH.to_string(), "basic.publish");
    assert_eq!(MethodId { class: 60, method: 99 }.to_string(), "60.99");
}
