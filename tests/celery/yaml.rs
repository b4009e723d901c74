//! Plain scalars, as `PyYAML` resolves them.

use super::describe::describe;
use super::*;
use oncegate::celery::yaml;

#[test]
fn plain_scalars_are_those_of_pyyaml() {
    for row in rows(include_str!("yaml_scalars.jsonl")) {
        let scalar = text(&row, "text");
        let read = yaml::parse(format!("- {scalar}\n").as_bytes(), limits());
        match row["value"].as_str() {
            None => assert!(read.is_err(), "{scalar}: {read:?}"),
            Some(expected) => match read {
                Ok(Value::List(items)) => assert_eq!(items.iter().map(describe).collect::<Vec<_>>(), [expected], "{scalar}"),
                other => panic!("{scalar}: {other:?}"),
            },
        }
    }
}
