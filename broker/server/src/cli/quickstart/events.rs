//! The demo's events: orders of a shop. The nth is always the same, so that whoever reads them back can tell.

use std::fmt::Write as _;

/// Where the shop delivers to, and how often.
const COUNTRIES: [(&str, &str, u64); 10] = [
    ("DE", "Hamburg", 22),
    ("FR", "Lyon", 16),
    ("GB", "Leeds", 14),
    ("IT", "Torino", 12),
    ("ES", "Valencia", 10),
    ("PL", "Gdansk", 8),
    ("NL", "Utrecht", 7),
    ("SE", "Malmo", 5),
    ("CZ", "Brno", 4),
    ("PT", "Porto", 2),
];
/// What it sells, and for how much at least, in cents.
const CATEGORIES: [(&str, i64); 8] = [
    ("books", 699),
    ("garden", 1_299),
    ("games", 1_999),
    ("kitchen", 2_499),
    ("sports", 2_999),
    ("shoes", 4_999),
    ("audio", 7_999),
    ("bikes", 39_900),
];
const PAYMENTS: [&str; 4] = ["card", "invoice", "paypal", "transfer"];
const CHANNELS: [&str; 3] = ["app", "web", "shop"];
const CUSTOMERS: u64 = 50_000;

/// One order, as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) timestamp: i64,
    pub(super) country: &'static str,
    pub(super) amount_cents: i64,
    /// The customer.
    pub(super) key: String,
    /// JSON.
    pub(super) value: String,
}

/// All orders there will ever be, by number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Orders {
    /// When the first is placed, in milliseconds since 1970.
    pub(super) since: i64,
}

/// Orders are placed this often: some hundred thousand of them make about a month.
const APART_MS: i64 = 6_000;

impl Orders {
    pub(super) fn key(self, n: u64) -> String {
        format!("customer-{:05}", mix(n ^ 0xc057) % CUSTOMERS)
    }

    pub(super) fn nth(self, n: u64) -> Order {
        let mut chance = Chance(mix(n));
        let timestamp =
            self.since + i64::try_from(n).unwrap_or(0) * APART_MS + chance.below(5_000).cast_signed();
        let (country, city) = country(&mut chance);
        let (category, price_from) = CATEGORIES[chance.index(CATEGORIES.len())];
        let quantity = 1 + chance.below(4).cast_signed();
        let unit_cents = price_from + 100 * chance.below(50).cast_signed();
        let amount_cents = quantity * unit_cents;
        let key = self.key(n);
        let mut value = String::with_capacity(320);
        // Writing to a string cannot fail.
        let _ = write!(
            value,
            r#"{{"order_id":"o-{n:09}","placed_at":"{}","customer":"{key}","country":"{country}","city":"{city}","category":"{category}","product":"sku-{:05}","quantity":{quantity},"unit_cents":{unit_cents},"amount_cents":{amount_cents},"currency":"EUR","payment":"{}","channel":"{}","gift":{}}}"#,
            Iso(timestamp),
            chance.below(20_000),
            PAYMENTS[chance.index(PAYMENTS.len())],
            CHANNELS[chance.index(CHANNELS.len())],
            chance.below(10) == 0,
        );
        Order {
            timestamp,
            country,
            amount_cents,
            key,
            value,
        }
    }
}

fn country(chance: &mut Chance) -> (&'static str, &'static str) {
    let mut left = chance.below(COUNTRIES.iter().map(|(_, _, often)| often).sum());
    for (country, city, often) in COUNTRIES {
        if left < often {
            return (country, city);
        }
        left -= often;
    }
    (COUNTRIES[0].0, COUNTRIES[0].1)
}

/// Numbers that look like chance and are always the same (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = mix(self.0);
        self.0 % end
    }

    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }
}

fn mix(seed: u64) -> u64 {
    let mut bits = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Milliseconds since 1970 as `2026-07-01T12:30:00.000Z`.
struct Iso(i64);

impl std::fmt::Display for Iso {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (days, of_day) = (self.0.div_euclid(86_400_000), self.0.rem_euclid(86_400_000));
        let (year, month, day) = date(days);
        let (hours, minutes, seconds) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60);
        let milliseconds = of_day % 1000;
        write!(
            out,
            "{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{milliseconds:03}Z"
        )
    }
}

/// The date so many days after 1970-01-01. Years are counted from March, so that the leap day comes last.
fn date(days: i64) -> (i64, i64, i64) {
    const DAYS_IN_400_YEARS: i64 = 146_097;
    const FROM_YEAR_0_TO_1970: i64 = 719_468;
    let days = days + FROM_YEAR_0_TO_1970;
    let era = days.div_euclid(DAYS_IN_400_YEARS);
    let of_era = days.rem_euclid(DAYS_IN_400_YEARS);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: Orders = Orders {
        since: 1_700_000_000_000,
    };

    #[test]
    fn the_nth_order_is_always_the_same() {
        assert_eq!(ORDERS.nth(7), ORDERS.nth(7));
        assert_ne!(ORDERS.nth(7).value, ORDERS.nth(8).value);
        assert_eq!(ORDERS.nth(7).key, ORDERS.key(7));
    }

    #[test]
    fn an_order_is_json_that_says_what_its_fields_say() {
        let order = ORDERS.nth(12_345);

        let json: serde_json::Value = serde_json::from_str(&order.value).unwrap();

        assert_eq!(json["country"], order.country);
        assert_eq!(json["amount_cents"], order.amount_cents);
        assert_eq!(json["customer"], order.key);
    }

    #[test]
    fn orders_are_placed_in_order_and_every_country_has_some() {
        let orders: Vec<_> = (0..1000).map(|n| ORDERS.nth(n)).collect();

        assert!(orders.is_sorted_by_key(|order| order.timestamp));
        for (country, ..) in COUNTRIES {
            assert!(orders.iter().any(|order| order.country == country), "{country}");
        }
    }

    #[test]
    fn times_are_written_as_people_read_them() {
        assert_eq!(Iso(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Iso(1_709_251_199_999).to_string(), "2024-02-29T23:59:59.999Z");
        assert_eq!(Iso(1_372_636_800_000).to_string(), "2013-07-01T00:00:00.000Z");
    }
}
