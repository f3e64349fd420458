//! Plans whatever can be read as a Dockerfile.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rootling::build::plan::{Base, Bases, PlanOptions, plan};
use rootling::build::syntax;
use rootling::image::Platform;
use rootling_backends::Result;

/// Every image leaves something to be done.
struct Anything(Base);

impl Bases for Anything {
    fn image(&mut self, _: &str, _: &Platform) -> Result<Base> {
        Ok(self.0.clone())
    }

    fn context(&mut self, _: &str, _: &Platform) -> Result<Base> {
        Ok(Base::default())
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(file) = syntax::parse(data) else { return };
    let mut base = Base::default();
    let left = ["ARG A=b", "RUN $A", "COPY --from=a x y"];
    base.config.other.insert("OnBuild".to_owned(), left.into());
    let options = PlanOptions {
        args: [("A".to_owned(), "/x y".to_owned())].into(),
        contexts: ["c".to_owned()].into(),
        ..PlanOptions::default()
    };
    if let Ok(plan) = plan(&file, &options, &mut Anything(base)) {
        let numbers: Vec<usize> = plan.stages.iter().map(|stage| stage.number).collect();
        assert!(numbers.is_sorted() && numbers.last() == Some(&plan.target));
        for stage in &plan.stages {
            assert!(stage.needs.iter().all(|need| *need < stage.number && numbers.contains(need)));
        }
    }
});
