// Adapters that were trained at r = 1, 2, 4, 8 and 16 on tasks whose optimal change has rank 8.
import { describe, expect, it } from 'vitest'
import { diagnose } from '../../compiler/doctor/diagnose.ts'
import { judge, judgeAdapter } from '../../compiler/doctor/saturation.ts'
import { DEMO, diagnosed, RANKS, withAdapters } from './adapters.ts'

describe.each(['decaying-1', 'decaying-2', 'tailed', 'demo'])('on the task %s, from the spectrum alone', (task) => {
  it('flags r = 1, 2 and 4, clears 8, and says that 16 could be 8', async () => {
    const { adapters } = await diagnosed(RANKS.map((r) => `${task}/r${r}`))
    const verdicts = Object.fromEntries(adapters.map(({ modules, verdict }) => [modules[0]?.r, verdict]))
    expect(verdicts).toEqual({ 1: 'at-limit', 2: 'at-limit', 4: 'at-limit', 8: 'fits', 16: 'spare' })
    expect(adapters.map(({ flagged }) => flagged)).toEqual([true, true, true, false, false])
    const largest = adapters.at(-1)
    expect(largest?.sentence).toBe('r could be 8')
    expect(new Set(largest?.modules.map(({ recommendedRank }) => recommendedRank))).toEqual(new Set([8]))
  })
})

describe('on a task of exactly 8 equal directions', () => {
  it('the spectrum alone cannot clear r = 8, and says so', async () => {
    const { adapters } = await diagnosed(RANKS.map((r) => `flat/r${r}`))
    expect(adapters.map(({ verdict }) => verdict)).toEqual(['at-limit', 'at-limit', 'at-limit', 'at-limit', 'spare'])
    expect(adapters[3]?.modules[0]?.sentence).toContain('let --data decide')
  })
})

describe('the adapters of the demo', () => {
  it('which solve 99.5 to 100 % of their held-out prompts, are not flagged', async () => {
    const { adapters } = await withAdapters(['triage', 'dates', 'clauses'], (base, read) => diagnose(base, read), [
      `${DEMO}/base`,
      `${DEMO}/adapters`,
    ])
    expect(adapters.map(({ name, verdict, flagged }) => [name, verdict, flagged])).toEqual([
      ['triage', 'spare', false],
      ['dates', 'spare', false],
      ['clauses', 'spare', false],
    ])
  })
})

describe('a verdict', () => {
  const flat = { rank: 4, tail: 1, k99: 4 }

  it('is no limit where r is all that the matrix has', () => {
    expect(judge(flat, 4, 4)).toEqual({ verdict: 'fits', recommendedRank: 4 })
  })

  it('is decided by data where the spectrum is flat', () => {
    expect(judge(flat, 4, 64)).toEqual({ verdict: 'at-limit', recommendedRank: 8 })
    expect(judge(flat, 4, 64, { evidence: 'too-low' })).toEqual({ verdict: 'too-low', recommendedRank: 8 })
    expect(judge(flat, 4, 64, { evidence: 'fits' })).toEqual({ verdict: 'fits', recommendedRank: 4 })
    expect(judge(flat, 4, 6, { evidence: 'undecided' })).toEqual({ verdict: 'at-limit', recommendedRank: 6 })
  })

  it('spares no rank that the losses need', () => {
    const decayed = { rank: 8, tail: 0.01, k99: 3 }
    expect(judge(decayed, 8, 64)).toEqual({ verdict: 'spare', recommendedRank: 3 })
    expect(judge(decayed, 8, 64, { sufficient: 4 })).toEqual({ verdict: 'spare', recommendedRank: 4 })
    expect(judge(decayed, 8, 64, { sufficient: 8 })).toEqual({ verdict: 'fits', recommendedRank: 8 })
  })

  it('of an adapter is that of at least half of the modules that change anything', () => {
    expect(judgeAdapter(['unused', 'at-limit', 'fits'], undefined)).toBe('at-limit')
    expect(judgeAdapter(['at-limit', 'fits', 'fits'], undefined)).toBe('fits')
    expect(judgeAdapter(['spare', 'fits', 'unused'], undefined)).toBe('spare')
    expect(judgeAdapter(['unused'], 'too-low')).toBe('unused')
    expect(judgeAdapter(['fits', 'fits'], 'too-low')).toBe('too-low')
  })
})
