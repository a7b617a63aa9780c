// Backends that are killed under load; bench/kill.ts does it fifty times.
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { compileDemoTo } from '../../bench/soak/demo.ts'
import { killBackends } from '../../bench/soak/kill-load.ts'
import { temporaryFolder } from './running.ts'

const KILLS = 4

test('kill -9 of one backend or of both costs clean errors and nothing else', { timeout: 240_000 }, async () => {
  const scratch = await temporaryFolder()
  const { artifact, manifest } = await compileDemoTo(join(scratch.path, 'artifact'))
  const found = await killBackends({ artifact, manifest, scratch: scratch.path, kills: KILLS, seed: 5 })
  await scratch.remove()
  expect(found.wrong).toEqual([])
  expect(found.readyMs).toHaveLength(KILLS)
  expect(found.whole).toBeGreaterThan(0)
  // With nobody left to turn to there have to be errors.
  expect(found.interrupted + Object.values(found.refused).reduce((sum, count) => sum + count, 0)).toBeGreaterThan(0)
})
