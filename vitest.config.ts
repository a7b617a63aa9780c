// Two kinds of test: on Node, and (test/gateway) the gateway's, on both of its hosts: workerd with D1, Node with libSQL.
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    reporters: ['default', './test/closing-line.ts'],
    projects: [
      {
        test: {
          name: 'node',
          include: ['test/**/*.test.ts'],
          exclude: ['test/gateway/**'],
          setupFiles: ['./test/seed.ts'],
          testTimeout: 30_000,
          hookTimeout: 120_000,
        },
      },
      './test/gateway/vitest.config.ts',
      './test/gateway/on-node/vitest.config.ts',
    ],
  },
})
