//! The vocabulary from the outside: the manifest's parser against samples, faults, and strangers;
//! schedules against the calendar and another program.

#[cfg(test)]
mod cron_properties;
#[cfg(test)]
mod cron_reference;
#[cfg(test)]
mod cron_slots;
#[cfg(test)]
mod generators;
#[cfg(test)]
mod manifest_2013;
#[cfg(test)]
mod manifest_faults;
#[cfg(test)]
mod manifest_hostile;
#[cfg(test)]
mod manifest_notices;
#[cfg(test)]
mod manifest_properties;
#[cfg(test)]
mod manifest_ranges;
#[cfg(test)]
mod manifest_schema;
#[cfg(test)]
mod manifest_values;
#[cfg(test)]
mod samples;
