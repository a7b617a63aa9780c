// A short soak; the long one is bench/soak.ts.
import { expect, test } from 'vitest'
import { growthOf } from '../../bench/soak/growth.ts'
import { soak } from '../../bench/soak/mixed-load.ts'
import { temporaryFolder } from '../e2e/running.ts'
import { compileDemo } from './artifacts.ts'

const SECONDS = 12

test('answers under a mixed load are those of the same requests alone', { timeout: 240_000 }, async () => {
  const { path, manifest } = await compileDemo()
  const scratch = await temporaryFolder()
  const digests = manifest.adapters.map(({ digest }) => digest)
  const found = await soak({ artifact: path, digests, scratch: scratch.path, seconds: SECONDS, seed: 3, questions: 24 })
  await scratch.remove()
  expect(found.different).toEqual([])
  expect(found.failed).toEqual({})
  expect(found.badServed).toBe(0)
  expect(found.idle).toEqual({
    'vllm:num_requests_running': 0,
    'vllm:num_requests_waiting': 0,
    'vllm:kv_cache_usage_perc': 0,
    slotsInUse: 0,
  })
  // It did what it is for.
  expect([found.equal, found.aborted, found.badRefused, found.hitTokens].every((count) => count > 0)).toBe(true)
  expect(found.loads['load 200']).toBeGreaterThan(0)
})

test('a line through a series that grows says by how much', () => {
  expect(growthOf([1, 2, 3, 4, 5]).growth).toBeCloseTo(4)
  expect(growthOf([3, 1, 3, 1, 3]).growth).toBeCloseTo(0)
})
