// The gateway's tests run in workerd, on a real D1 with the real migrations.
import { cloudflareTest, readD1Migrations } from '@cloudflare/vitest-plugin'
import { defineProject } from 'vitest/config'
import { answerAsBackend } from './outbound-backend.ts'
import { fuzzed, SECRETS } from './secrets.ts'

const root = new URL('../../', import.meta.url).pathname

export default defineProject({
  plugins: [
    cloudflareTest(async () => ({
      main: `${root}gateway/worker.ts`,
      wrangler: { configPath: `${root}wrangler.toml` },
      miniflare: {
        bindings: {
          ...SECRETS,
          FUZZ: fuzzed(),
          TEST_MIGRATIONS: await readD1Migrations(`${root}migrations`),
        },
        // As wrangler.toml names them in a comment.
        queueProducers: { USAGE_QUEUE: 'sidepath-usage' },
        queueConsumers: { 'sidepath-usage': { maxBatchSize: 10, maxBatchTimeout: 0, maxRetries: 2, retryDelay: 0 } },
        // Whatever the Worker fetches ends here: nothing in these tests reaches a network.
        outboundService: answerAsBackend,
      },
    })),
  ],
  test: {
    name: 'gateway',
    root: `${root}test/gateway`,
    include: ['*.test.ts'],
    setupFiles: ['./apply-migrations.ts', './seed.ts'],
  },
})
