//! The stores that one worker keeps connections to: usually one, several where scripts use several.

use cloakroom::{
    Billed, Counters, Deadline, Environment, Error, ErrorKind, Extent, Finding, Gravity, Result, SavePath,
    Settings, Store, StoreUrl, detect, stores,
};

use crate::drop_in::Native;
use crate::handler::SavePathSetting;
use crate::ini::{Config, StoreOption};

/// How many are kept; those that were not used for longest go first.
const KEPT: usize = 4;

/// The stores used so far, the current one last.
pub(crate) struct Connected {
    environment: &'static Environment,
    stores: Vec<Connection>,
    /// What the stores did that are no longer among them.
    retired: Counters,
    retired_bill: Bill,
    /// What detection has to say, and how much of it was said.
    notices: Vec<String>,
    said: usize,
}

/// What requests have cost, by what they were for.
pub(crate) type Bill = Vec<(&'static str, Billed)>;

/// A store and the settings that led to it.
struct Connection {
    setting: String,
    native: Option<&'static Native>,
    options: Vec<StoreOption>,
    settings: Settings,
    name: String,
    detected: Option<String>,
    /// The variables that name it, where `session.save_path` does not.
    from: Option<String>,
    /// It refused the credentials: the next request reads them again.
    refused: bool,
    /// Settings that decide instead of ours, for the hints of errors.
    deciding: Vec<(&'static str, &'static str)>,
    /// How many connections it had turned away when it was inspected; `None` before that.
    inspected: Option<u64>,
    /// What was said of it already.
    said: Vec<Finding>,
    store: Box<dyn Store>,
}

impl Connected {
    pub(crate) fn new(environment: &'static Environment) -> Self {
        Connected {
            environment,
            stores: Vec::new(),
            retired: Counters::default(),
            retired_bill: Bill::new(),
            notices: Vec::new(),
            said: 0,
        }
    }

    /// Whether these settings lead to the current store.
    pub(crate) fn is_current(&self, save_path: &SavePathSetting<'_>, config: &Config) -> bool {
        self.stores.last().is_some_and(|connection| connection.is_for(save_path, config))
    }

    /// Makes the store current that these settings lead to.
    pub(crate) fn choose(&mut self, save_path: &SavePathSetting<'_>, config: &Config) -> Result<()> {
        if let Some(index) = self.stores.iter().position(|connection| connection.is_for(save_path, config)) {
            let mut connection = self.stores.remove(index);
            connection.deciding.clone_from(&config.deciding);
            self.stores.push(connection);
            return Ok(());
        }
        let Located { mut url, because, from } = self.locate(save_path, config)?;
        for option in &config.options {
            url.set(option.name, option.value.clone(), option.setting);
        }
        let name = url.to_string();
        let store =
            stores::open(&url, config.store.clone()).map_err(|error| named_in(error, from.as_deref()))?;
        if self.stores.len() == KEPT {
            let Connection { store, .. } = self.stores.remove(0);
            self.retired = self.retired + store.counters();
            add(&mut self.retired_bill, store.billed());
        }
        self.stores.push(Connection {
            setting: save_path.text.to_owned(),
            native: save_path.native,
            options: config.options.clone(),
            settings: config.store.clone(),
            name,
            detected: because,
            from,
            refused: false,
            deciding: config.deciding.clone(),
            inspected: None,
            said: Vec::new(),
            store,
        });
        Ok(())
    }

    /// The current store.
    pub(crate) fn store(&mut self) -> Result<&mut dyn Store> {
        match self.stores.last_mut() {
            Some(connection) => Ok(connection.store.as_mut()),
            None => Err(Error::new(ErrorKind::Bug, "PHP used the session before it opened it")),
        }
    }

    /// The current store, if there is one, without its connection.
    pub(crate) fn peek(&self) -> Option<&dyn Store> {
        self.stores.last().map(|connection| &*connection.store)
    }

    /// The masked URL of the current store.
    pub(crate) fn name(&self) -> Option<&str> {
        self.stores.last().map(|connection| connection.name.as_str())
    }

    /// Why the current store was chosen, where nothing named it.
    pub(crate) fn detected(&self) -> Option<&str> {
        self.stores.last().and_then(|connection| connection.detected.as_deref())
    }

    /// What all of them have done.
    pub(crate) fn counters(&self) -> Counters {
        self.stores.iter().fold(self.retired, |sum, connection| sum + connection.store.counters())
    }

    /// What all of them have cost, where somebody bills it.
    pub(crate) fn billed(&self) -> Bill {
        let mut sum = self.retired_bill.clone();
        self.stores.iter().for_each(|connection| add(&mut sum, connection.store.billed()));
        sum
    }

    /// Names the current store and its settings in the error, and remembers that it refused the credentials.
    pub(crate) fn failed(&mut self, error: Error) -> Error {
        let Some(connection) = self.stores.last_mut() else { return error };
        connection.refused |= error.kind() == ErrorKind::Auth;
        let deciding = connection.deciding.iter();
        let error = deciding.fold(error, |error, (theirs, ours)| error.decided_by(theirs, ours));
        named_in(error, connection.from.as_deref()).on(connection.name.as_str())
    }

    /// What endangers sessions in the current store and was not said before; looked for once, and once more when the
    /// store first turns a connection away. An inspection that fails changes nothing, and is not repeated.
    pub(crate) fn dangers(&mut self, by: Deadline) -> Vec<Finding> {
        let Some(connection) = self.stores.last_mut() else { return Vec::new() };
        let Counters { connects, turned_away, .. } = connection.store.counters();
        if connects == 0 {
            return Vec::new();
        }
        if connection.inspected.is_some_and(|then| then > 0 || turned_away == 0) {
            return Vec::new();
        }
        connection.inspected = Some(turned_away);
        let mut found = connection.store.inspect(Extent::Connected, by).unwrap_or_default();
        found.retain(|finding| finding.gravity != Gravity::Note && !connection.said.contains(finding));
        connection.said.extend(found.iter().cloned());
        found
    }

    /// What detection has to say and has not said yet.
    pub(crate) fn notices(&mut self) -> &[String] {
        let unsaid = &self.notices[self.said..];
        self.said = self.notices.len();
        unsaid
    }

    /// Ends all connections, and begins to count anew.
    pub(crate) fn clear(&mut self) {
        self.stores.clear();
        self.retired = Counters::default();
        self.retired_bill.clear();
    }

    fn locate(&mut self, save_path: &SavePathSetting<'_>, config: &Config) -> Result<Located> {
        let text = save_path.text;
        let inherited = detect::DISTRIBUTION_DIRECTORIES.contains(&text) && !(save_path.is_configured)();
        let directory = if inherited { text.to_owned() } else { (save_path.temporary_directory)() };
        let parsed = match save_path.native {
            _ if inherited => SavePath::Detect,
            Some(native) => (native.parse)(text, self.environment)?,
            None => SavePath::parse(text, self.environment)?,
        };
        let (url, because, from) = match parsed {
            SavePath::Store(url) => (url, None, None),
            SavePath::Detect if config.detect => {
                let detected = detect::detect(self.environment, &directory)?;
                for notice in detected.notices {
                    if !self.notices.contains(&notice) {
                        self.notices.push(notice);
                    }
                }
                let from = (!detected.from.is_empty()).then(|| detected.because.clone());
                (detected.url, Some(detected.because), from)
            }
            SavePath::Detect => (StoreUrl::directory(&directory), None, None),
        };
        match save_path.native.and_then(|native| Some((native.name(), (native.refuse)(&url)?))) {
            Some((name, instead)) => {
                let what =
                    format!("session.save_path names no store that session.save_handler={name} can use");
                let hint = format!("{instead}, or set session.save_handler=cloakroom");
                Err(Error::new(ErrorKind::Config, what).hint(hint))
            }
            None => Ok(Located { url, because, from }),
        }
    }
}

fn add(sum: &mut Bill, bill: Bill) {
    for (purpose, billed) in bill {
        match sum.iter_mut().find(|(known, _)| *known == purpose) {
            Some((_, known)) => *known = *known + billed,
            None => sum.push((purpose, billed)),
        }
    }
}

/// The store that the settings lead to; why and by which variables, where it was detected.
struct Located {
    url: StoreUrl,
    because: Option<String>,
    from: Option<String>,
}

fn named_in(error: Error, variables: Option<&str>) -> Error {
    match variables {
        Some(variables) => error.about(variables),
        None => error,
    }
}

impl Connection {
    fn is_for(&self, save_path: &SavePathSetting<'_>, config: &Config) -> bool {
        !self.refused
            && self.setting == save_path.text
            && self.native.map(Native::name) == save_path.native.map(Native::name)
            && self.options == config.options
            && self.settings == config.store
    }
}
