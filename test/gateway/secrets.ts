// The bindings that every test of the gateway runs with, on either host.
export const SECRETS = {
  ENVIRONMENT: 'test',
  PEPPERS: JSON.stringify({
    current: '2',
    keys: { 1: btoa('first-test-pepper-0123456789abcdef'), 2: btoa('second-test-pepper-0123456789abcdef') },
  }),
  CAPABILITY_SECRET: 'test-capability-secret-0123456789abcdef',
}

/** How long the fuzz of the routes is, times what every run of the tests has, and its seed. */
export const fuzzed = () => ({
  times: Number(process.env.SIDEPATH_FUZZ_TIMES ?? 1),
  seed: Number(process.env.SIDEPATH_FUZZ_SEED ?? 20_261_123),
})
