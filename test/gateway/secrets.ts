// The bindings that every test of the gateway runs with, on either host.
export const SECRETS = {
  ENVIRONMENT: 'test',
  PEPPERS: JSON.stringify({
    current: '2',
    keys: { 1: btoa('first-test-pepper-0123456789abcdef'), 2: btoa('second-test-pepper-0123456789abcdef') },
  }),
  CAPABILITY_SECRET: 'test-capability-secret-0123456789abcdef',
}
