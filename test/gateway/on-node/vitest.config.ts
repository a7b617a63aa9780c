// The gateway's tests once more, on Node with libSQL: two hosts, one code, one suite.
import { defineProject } from 'vitest/config'

const here = new URL('./', import.meta.url).pathname

export default defineProject({
  resolve: {
    alias: { 'cloudflare:test': `${here}cloudflare.ts`, 'cloudflare:workers': `${here}cloudflare.ts` },
  },
  test: {
    name: 'gateway on Node',
    root: `${here}..`,
    // And those with real servers on the other side, which workerd cannot open.
    include: ['*.test.ts', 'on-node/*.test.ts'],
    // The Worker's own entry, and what only Cloudflare has; that of Node is in test/cli/gateway.test.ts.
    exclude: ['worker.test.ts', 'usage-queue.test.ts'],
    testTimeout: 30_000,
    setupFiles: ['./apply-migrations.ts', './seed.ts'],
  },
})
