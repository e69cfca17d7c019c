//! JSON values as columns: nothing is dropped, types never change, and sums come out right.

use crate::lake::{Lake, NOON, batch, run};
use varve_lakehouse_sink::{GroupKey, Sum};

fn text(value: &str) -> Vec<GroupKey> {
    vec![GroupKey::Text(value.into())]
}

async fn groups(lake: &Lake, by: &str, sum: &str) -> Vec<(Vec<GroupKey>, u64, Sum)> {
    let groups = lake.reader().await.count_and_sum(&[by], sum).await.unwrap();
    groups
        .into_iter()
        .map(|group| (group.key, group.count, group.sum))
        .collect()
}

#[tokio::test]
async fn fields_become_columns_that_can_be_asked() {
    let lake = Lake::new().json("");
    let mut table = lake.writer().await;
    let rows = [
        r#"{"carrier":"UA","delay":2}"#,
        r#"{"delay":null,"carrier":"AA"}"#,
        r#"{"carrier":"UA","delay":-5}"#,
    ];
    table.push(0, &batch(0, &rows)).await.unwrap();

    table.commit(NOON).await.unwrap();

    assert_eq!(
        groups(&lake, "carrier", "delay").await,
        [(text("AA"), 1, Sum::Null), (text("UA"), 2, Sum::Long(-3))]
    );
}

#[tokio::test]
async fn whatever_is_not_an_object_keeps_its_row_and_is_counted() {
    let lake = Lake::new().json("");
    let mut table = lake.writer().await;
    table
        .push(0, &batch(0, &["{\"a\":1}", "not json", "[1]", "7", "{\"a\":2"]))
        .await
        .unwrap();

    table.commit(NOON).await.unwrap();

    assert_eq!(table.json_counts().not_objects, 4);
    assert_eq!(lake.rows().await, [(0, 5, 5)]);
    assert_eq!(
        groups(&lake, "partition", "a").await,
        [(vec![GroupKey::Long(0)], 5, Sum::Long(1))]
    );
}

#[tokio::test]
async fn new_fields_add_columns_and_old_rows_have_nulls_there() {
    let lake = Lake::new().json("");
    let mut table = lake.writer().await;
    table.push(0, &batch(0, &[r#"{"a":1}"#])).await.unwrap();
    table.commit(NOON).await.unwrap();
    table.push(0, &batch(1, &[r#"{"a":2,"b":"x"}"#])).await.unwrap();
    table.commit(NOON).await.unwrap();

    let mut again = lake.writer().await;
    again
        .push(0, &batch(2, &[r#"{"b":"y","c":true,"a":3}"#]))
        .await
        .unwrap();
    again.commit(NOON).await.unwrap();

    let wanted = [
        (vec![GroupKey::Null], 1, Sum::Long(1)),
        (text("x"), 1, Sum::Long(2)),
        (text("y"), 1, Sum::Long(3)),
    ];
    assert_eq!(groups(&lake, "b", "a").await, wanted);
    assert_eq!(
        groups(&lake, "c", "a").await[1],
        (vec![GroupKey::Boolean(true)], 1, Sum::Long(3))
    );
}

#[tokio::test]
async fn numbers_of_one_chunk_widen_together() {
    let lake = Lake::new().json("");
    let mut table = lake.writer().await;
    table
        .push(
            0,
            &batch(
                0,
                &[
                    r#"{"a":1}"#,
                    r#"{"a":0.5}"#,
                    r#"{"m":1}"#,
                    r#"{"m":"x"}"#,
                    r#"{"m":{"k":[1]}}"#,
                ],
            ),
        )
        .await
        .unwrap();

    table.commit(NOON).await.unwrap();

    assert_eq!(groups(&lake, "partition", "a").await[0].2, Sum::Double(1.5));
    let mixed: Vec<_> = groups(&lake, "m", "offset")
        .await
        .into_iter()
        .map(|group| group.0)
        .collect();
    assert_eq!(
        mixed,
        [vec![GroupKey::Null], text("1"), text("x"), text(r#"{"k":[1]}"#)]
    );
}

#[tokio::test]
async fn later_values_that_do_not_fit_stand_beside_their_column() {
    let lake = Lake::new().json("");
    let mut table = lake.writer().await;
    table.push(0, &batch(0, &[r#"{"a":1,"ok":true}"#])).await.unwrap();
    table.commit(NOON).await.unwrap();

    table
        .push(
            0,
            &batch(
                1,
                &[
                    r#"{"a":0.5}"#,
                    r#"{"a":"late"}"#,
                    r#"{"a":4.0}"#,
                    r#"{"ok":0.25}"#,
                ],
            ),
        )
        .await
        .unwrap();
    table.commit(NOON).await.unwrap();

    assert_eq!(table.json_counts().misfits, 3);
    assert_eq!(groups(&lake, "partition", "a").await[0].2, Sum::Long(5));
    assert_eq!(
        groups(&lake, "partition", "a__double").await[0].2,
        Sum::Double(0.5)
    );
    assert_eq!(
        groups(&lake, "a__string", "offset").await[1],
        (text("late"), 1, Sum::Long(2))
    );
    assert_eq!(
        groups(&lake, "ok__string", "offset").await[1],
        (text("0.25"), 1, Sum::Long(4))
    );
}

#[tokio::test]
async fn given_columns_are_there_from_the_start_and_no_others_come() {
    let lake = Lake::new().json("carrier string, delay double, offset long");
    let mut table = lake.writer().await;
    table
        .push(
            0,
            &batch(
                0,
                &[
                    r#"{"carrier":"UA","delay":3,"offset":7,"extra":1}"#,
                    r#"{"delay":"x"}"#,
                ],
            ),
        )
        .await
        .unwrap();
    table.commit(NOON).await.unwrap();

    assert_eq!(
        groups(&lake, "carrier", "delay").await[1],
        (text("UA"), 1, Sum::Double(3.0))
    );
    assert_eq!(
        groups(&lake, "carrier", "offset__json").await[1],
        (text("UA"), 1, Sum::Long(7))
    );
    assert!(
        lake.reader()
            .await
            .count_and_sum(&["extra"], "delay")
            .await
            .is_err()
    );
    assert_eq!(table.json_counts().misfits, 1);
}

#[tokio::test]
async fn the_last_of_equal_names_counts_and_surplus_fields_stay_raw() {
    let mut lake = Lake::new().json("");
    lake.settings.json_fields_max = 2;
    let mut table = lake.writer().await;
    table
        .push(0, &batch(0, &[r#"{"a":1,"a":2,"b":1,"c":1}"#, r#"{"c":1}"#]))
        .await
        .unwrap();
    table.commit(NOON).await.unwrap();

    assert_eq!(groups(&lake, "b", "a").await[1].2, Sum::Long(2));
    assert_eq!(table.json_counts().left_out, 2);
}

#[tokio::test]
async fn files_and_chunks_end_where_their_limits_say() {
    let mut lake = Lake::new().json("");
    lake.settings.chunk_bytes = 4 << 10;
    lake.settings.row_group_bytes = 8 << 10;
    lake.settings.file_bytes = 16 << 10;
    let mut table = lake.writer().await;
    for n in 0..200 {
        table.push(0, &run(n * 50, 50)).await.unwrap();
        assert!(table.pending_bytes() < 256 << 10, "{}", table.pending_bytes());
    }

    let committed = table.commit(NOON).await.unwrap();

    assert!(committed.files > 1);
    assert_eq!(lake.rows().await, [(0, 10_000, 10_000)]);
    assert_eq!(
        groups(&lake, "partition", "n").await[0].2,
        Sum::Long(10_000 * 9_999 / 2)
    );
}
