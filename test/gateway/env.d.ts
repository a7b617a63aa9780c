// The bindings that the test configuration adds.
declare namespace Cloudflare {
  interface GlobalProps {
    mainModule: typeof import('../../gateway/worker.ts')
  }
  interface Env {
    DB: D1Database
    ENVIRONMENT: string
    PEPPERS: string
    CAPABILITY_SECRET: string
    USAGE_QUEUE: Queue
    FUZZ: { readonly times: number; readonly seed: number }
    TEST_MIGRATIONS: import('cloudflare:test').D1Migration[]
  }
}
