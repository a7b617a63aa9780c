// 2,000 hostile ONNX files with external data; `bench/fuzz.ts` has 50,000.
import { describe, expect, it } from 'vitest'
import { FUZZ_SEED, seeded } from '../compiler/random.ts'
import { hostileOnnx, readHostile } from './onnx-mutations.ts'

const CASES = 2000

describe('hostile ONNX with external data', () => {
  it(`${CASES} times, is refused with a typed error or read within bounds, in no time`, async () => {
    const random = seeded(FUZZ_SEED)
    const counts = { read: 0, refused: 0 }
    let slowestMs = 0
    for (let at = 0; at < CASES; at += 1) {
      const bytes = hostileOnnx(random)
      const started = performance.now()
      const { refused, asked } = await readHostile(bytes).catch((error) => {
        throw new Error(`seed ${FUZZ_SEED}, case ${at}`, { cause: error })
      })
      slowestMs = Math.max(slowestMs, performance.now() - started)
      expect(asked).toBeLessThanOrEqual(bytes.length)
      counts[refused ? 'refused' : 'read'] += 1
    }
    expect(counts.refused).toBeGreaterThan(CASES / 4)
    expect(counts.read).toBeGreaterThan(CASES / 20)
    expect(slowestMs).toBeLessThan(1000)
  })

  it('is the same for the same seed', () => {
    const [one, two] = [seeded(7), seeded(7)]
    for (let at = 0; at < 50; at += 1) expect(hostileOnnx(one)).toEqual(hostileOnnx(two))
  })
})
