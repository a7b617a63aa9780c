// The promotion check: each threshold by itself, at its bound and beyond, and what is not measured.
import { describe, expect, it } from 'vitest'
import { applyGate, parseGate } from '../../compiler/doctor/gate.ts'
import { htmlReport } from '../../compiler/doctor/html.ts'
import type { DoctorReport } from '../../compiler/doctor/report.ts'
import { diagnosed } from './adapters.ts'

const schema = 'sidepath.gate/1'

async function report(): Promise<DoctorReport> {
  const found = await diagnosed(['decaying-1/r4', 'decaying-1/r16'], 6)
  const loss = { tokens: 10, baseLoss: 2, loss: 1, basePerplexity: 8, perplexity: 4, meanKl: 0.5, maxKl: 1 }
  const [first, second] = found.adapters
  return { ...found, adapters: [{ ...first!, forgetting: loss, task: loss }, second!] }
}

describe('a gate', () => {
  it('names each adapter that a threshold fails, and passes at the bound', async () => {
    const found = await report()
    const atLimit = found.adapters[0]!.modules.filter(({ verdict }) => verdict === 'at-limit').length / 4
    const results = applyGate(parseGate({ schema, allowFlagged: false, maxShareAtLimit: atLimit }, 'g'), found)
    expect(results.map(({ threshold, subject, ok }) => [threshold, subject, ok])).toEqual([
      ['allowFlagged', 'decaying-1-r4', false],
      ['allowFlagged', 'decaying-1-r16', true],
      ['maxShareAtLimit', 'decaying-1-r4', true],
      ['maxShareAtLimit', 'decaying-1-r16', true],
    ])
    const below = applyGate(parseGate({ schema, maxShareAtLimit: atLimit - 0.01 }, 'g'), found)
    expect(below.map(({ ok }) => ok)).toEqual([false, true])
  })

  it('does not pass what was not measured', async () => {
    const results = applyGate(
      parseGate({ schema, maxForgettingKl: 0.5, maxTaskPerplexityRatio: 0.5 }, 'g'),
      await report(),
    )
    expect(results.map(({ subject, found, ok }) => [subject, found, ok])).toEqual([
      ['decaying-1-r4', 0.5, true],
      ['decaying-1-r16', null, false],
      ['decaying-1-r4', 0.5, true],
      ['decaying-1-r16', null, false],
    ])
  })

  it('bounds spare parameters, intruders, perplexity, and pairs', async () => {
    const found = await report()
    const bounds = {
      maxSpareParameters: 0.4,
      maxIntruders: 0,
      maxForgettingPerplexityRatio: 0.6,
      maxOverlap: 0.1,
      maxSignConflict: 1,
    }
    const results = applyGate(parseGate({ schema, ...bounds }, 'g'), found)
    const of = (threshold: string) => results.filter((result) => result.threshold === threshold).map(({ ok }) => ok)
    expect(of('maxSpareParameters')).toEqual([true, false])
    expect(of('maxIntruders')).toEqual([false, false])
    expect(of('maxForgettingPerplexityRatio')).toEqual([true, false])
    expect(of('maxOverlap')).toEqual([false])
    expect(of('maxSignConflict')).toEqual([true])
    expect(results.find(({ threshold }) => threshold === 'maxOverlap')?.subject).toBe('decaying-1-r4 + decaying-1-r16')
  })

  it.each([
    [{}, 'schema'],
    [{ schema, maxOverlap: 2 }, 'maxOverlap'],
    [{ schema, maxIntruders: 0.5 }, 'maxIntruders'],
    [{ schema, maxRank: 3 }, 'maxRank'],
    [{ schema: 'sidepath.gate/2' }, 'schema'],
  ])('refuses %j and names what is wrong', (json, key) => {
    expect(() => parseGate(json, 'gate.json')).toThrow(new RegExp(`^gate.json: .*${key}`))
  })
})

describe('the HTML report', () => {
  it('is one page that loads and runs nothing, whatever the names in it are', async () => {
    const found = await report()
    const [first, ...others] = found.adapters
    const evil = '<script>alert(1)</script>"\'&'
    const modules = first!.modules.map((module) => ({ ...module, module: evil }))
    const html = htmlReport({ ...found, base: evil, adapters: [{ ...first!, modules }, ...others], notes: [evil] }, [])
    expect(html).not.toContain('<script')
    expect(html).not.toMatch(/(src|href)=|url\(|@import/)
    expect(html).toContain("default-src 'none'")
    expect(html).toContain('&lt;script&gt;alert(1)&lt;/script&gt;')
    expect(html).toContain('prefers-color-scheme: dark')
  })

  it('gives every plot a name in words and repeats every figure in tables', async () => {
    const html = htmlReport(await report(), [])
    const plots = html.match(/<svg [^>]*>/g) ?? []
    expect(plots.length).toBeGreaterThanOrEqual(7)
    for (const plot of plots) expect(plot).toMatch(/role="img" aria-label="[^"]{10,}"/)
    expect(html).not.toMatch(/NaN|Infinity|undefined/)
    expect(html).toContain('model.layers.0.mlp.down_proj')
  })

  it('is the same for the same report', async () => {
    expect(htmlReport(await report(), [])).toBe(htmlReport(await report(), []))
  })
})
