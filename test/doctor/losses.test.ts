// Losses, KL and what they say of a rank, against torch and PEFT on the same tokens.
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { withMeasurements } from '../../cli/doctor/measure.ts'
import { diagnose, type ReadAdapter } from '../../compiler/doctor/diagnose.ts'
import { compareRanks } from '../../compiler/doctor/evidence.ts'
import { windowsOf } from '../../compiler/doctor/logits.ts'
import { difference } from '../../compiler/doctor/losses.ts'
import { type DoctorReport, DoctorReportSchema } from '../../compiler/doctor/report.ts'
import type { Base } from '../../compiler/merge/open-base.ts'
import { openFolder } from '../../runtime/disk.ts'
import { baseOf, nameOf, ORACLE, oracle, RANKS, withAdapters } from './adapters.ts'

async function measured(
  folders: readonly string[],
  data: string,
  general: string,
  maxTokens = 4096,
): Promise<DoctorReport> {
  const at = baseOf(data)
  const run = async (base: Base, adapters: ReadAdapter[]) =>
    withMeasurements(await diagnose(base, adapters), {
      ...{ base: openFolder(at), adapters, maxTokens },
      specs: folders.map((path) => ({ name: nameOf(path), path: join(ORACLE, path), weight: 1 })),
      data: join(ORACLE, data, 'task.jsonl'),
      general: join(ORACLE, general, 'task.jsonl'),
    })
  return withAdapters(folders, run, [at, ORACLE])
}

describe.each(Object.entries(oracle.losses))('%s', (key, wanted) => {
  it('has the loss and the KL divergence that torch and PEFT compute', async () => {
    const [folder = '', data = ''] = key.split(' on ')
    const { adapters } = await measured([folder], data, data)
    for (const found of [adapters[0]?.task, adapters[0]?.forgetting]) {
      expect(found?.tokens).toBe(wanted.tokens)
      expect(Math.abs(found!.baseLoss - wanted.baseLoss)).toBeLessThan(1e-5)
      expect(Math.abs(found!.loss - wanted.loss)).toBeLessThan(1e-5)
      expect(Math.abs(found!.meanKl - wanted.meanKl)).toBeLessThan(1e-5)
      expect(Math.abs(found!.maxKl - wanted.maxKl)).toBeLessThan(1e-3)
      expect(found?.perplexity).toBeCloseTo(Math.exp(wanted.loss), 2)
    }
  })
})

describe.each(['decaying-1', 'decaying-2', 'flat', 'demo'])('on the task %s, with data', (task) => {
  let report: DoctorReport
  beforeAll(async () => {
    report = await measured(
      RANKS.map((r) => `${task}/r${r}`),
      task,
      task,
      2048,
    )
  })

  it('r = 1, 2 and 4 are too low, 8 fits and 16 could be 8', () => {
    expect(report.adapters.map(({ verdict, flagged }) => [verdict, flagged])).toEqual([
      ['too-low', true],
      ['too-low', true],
      ['too-low', true],
      ['fits', false],
      ['spare', false],
    ])
    expect(report.adapters.map(({ comparison }) => comparison?.evidence)).toEqual([
      'too-low',
      'too-low',
      'too-low',
      'fits',
      undefined,
    ])
    expect(new Set(report.adapters[4]?.modules.map(({ recommendedRank }) => recommendedRank))).toEqual(new Set([8]))
  })

  it('the first 8 directions of r = 16 lose nothing, and the first 4 of r = 8 do', () => {
    expect(report.adapters[4]?.ladder).toMatchObject({ sufficient: 8, rungs: [{ k: 1 }, { k: 2 }, { k: 4 }, { k: 8 }] })
    expect(report.adapters[3]?.ladder?.sufficient).toBe(8)
    expect(report.adapters[0]?.ladder).toBeUndefined()
  })

  it('is a report by its schema', () => {
    expect(() => DoctorReportSchema.parse(JSON.parse(JSON.stringify(report)))).not.toThrow()
  })
})

describe('a comparison', () => {
  const ranks = (r: number) => new Map([['m', r]])
  const losses = (...variants: number[][]) => ({
    ...{ tokens: [10, 10, 10, 10], base: [30, 31, 29, 30] },
    variants: variants.map((of) => ({ losses: of, kl: 0, maxKl: 0 })),
  })

  it('needs an adapter that has all its modules, none at a lower rank', () => {
    const other = { name: 'other', ranks: new Map([['n', 9]]) }
    const same = losses([20, 20, 20, 20], [10, 10, 10, 10])
    expect(compareRanks([{ name: 'a', ranks: ranks(2) }, other], same, 0)).toBeUndefined()
    const smaller = { name: 'b', ranks: ranks(1) }
    expect(compareRanks([{ name: 'a', ranks: ranks(2) }, smaller], same, 0)).toBeUndefined()
  })

  it('decides nothing where the larger rank learnt nothing, or where the texts disagree', () => {
    const candidates = [
      { name: 'a', ranks: ranks(2) },
      { name: 'b', ranks: ranks(4) },
    ]
    const nothing = losses([30, 31, 29, 30], [30, 31, 29, 30])
    expect(compareRanks(candidates, nothing, 0)?.evidence).toBe('undecided')
    const noisy = losses([25, 10, 22, 12], [10, 24, 11, 20])
    expect(compareRanks(candidates, noisy, 0)?.evidence).toBe('undecided')
  })

  it('is paired: texts that differ from each other by more than the adapters do hide nothing', () => {
    const { value, standardError } = difference([10, 10, 10, 10], [11, 101, 51, 201], [10, 100, 50, 200])
    expect(value).toBeCloseTo(0.1, 12)
    expect(standardError).toBeLessThan(1e-12)
  })
})

describe('windows', () => {
  it('cut a long text, count what is counted once, and leave out what is given', () => {
    const ids = Array.from({ length: 300 }, (_, i) => i)
    expect(windowsOf([{ ids, start: 1 }], 512).map((window) => [window.ids.length, window.start])).toEqual([
      [128, 1],
      [128, 1],
      [44, 1],
    ])
    expect(windowsOf([{ ids, start: 140 }], 512).map((window) => [window.ids[0], window.start])).toEqual([
      [128, 12],
      [256, 1],
    ])
    expect(windowsOf([{ ids: [1], start: 1 }], 512)).toEqual([])
  })
})
