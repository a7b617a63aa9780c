// How large the gateway is as a Worker: what a cold start has to load, and far below what Cloudflare takes.
import { readFile } from 'node:fs/promises'
import { gzipSync } from 'node:zlib'
import { expect, it } from 'vitest'
import { bundleWorker } from '../../cli/up/bundle-worker.ts'

/** As `wrangler deploy` sends it. */
const MAX_GZIP_KIB = 150

it('is less than 150 KiB gzipped', async () => {
  expect(await readFile('wrangler.toml', 'utf8')).toMatch(/^minify = true$/m)
  const bundle = await bundleWorker('gateway/worker.ts', true)
  expect(bundle).toContain('/v1/chat/completions')
  expect(gzipSync(bundle, { level: 9 }).length / 1024).toBeLessThan(MAX_GZIP_KIB)
})

it('asks for nothing of Node, which workerd would not have', async () => {
  expect(await bundleWorker('gateway/worker.ts')).not.toMatch(/from ?["']node:|require\(["']node:/)
})
