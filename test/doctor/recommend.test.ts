// The recommended ranks in the words of adapter_config.json.
import { describe, expect, it } from 'vitest'
import { ModulePatterns } from '../../compiler/adapter/patterns.ts'
import { Budget } from '../../compiler/adapter/regex/budget.ts'
import { recommend } from '../../compiler/doctor/recommend.ts'
import { Problems } from '../../compiler/errors.ts'

const of = (ranks: Readonly<Record<string, number>>) =>
  recommend(Object.entries(ranks).map(([module, recommendedRank]) => ({ module, recommendedRank })))

describe('a recommendation', () => {
  it('names a kind of linear once where all of it has one rank', () => {
    expect(of({ 'l.0.q_proj': 8, 'l.1.q_proj': 8, 'l.0.down_proj': 3, 'l.1.down_proj': 3, 'l.0.o_proj': 8 })).toEqual({
      r: 8,
      rank_pattern: { down_proj: 3 },
      leave_out: [],
    })
  })

  it('writes paths out where they differ, and leaves out what changes nothing', () => {
    expect(of({ 'l.0.q_proj': 8, 'l.1.q_proj': 2, 'l.2.q_proj': 8, 'l.0.v_proj': 0 })).toEqual({
      r: 8,
      rank_pattern: { 'l.1.q_proj': 2 },
      leave_out: ['l.0.v_proj'],
    })
  })

  it('of nothing is nothing', () => {
    expect(of({ 'l.0.q_proj': 0 })).toEqual({ r: 0, rank_pattern: {}, leave_out: ['l.0.q_proj'] })
  })

  it('gives every module its rank back when it is read as PEFT reads it', () => {
    const names = ['q_proj', 'k_proj', 'mlp.up', 'up', 'a.up']
    for (let seed = 1; seed < 400; seed += 1) {
      const ranks: Record<string, number> = {}
      names.forEach((name, at) => {
        for (let layer = 0; layer < 3; layer += 1) {
          ranks[`model.${layer}.${name}`] = (Math.imul(seed, 31 + at) >>> (layer + at)) % 5
        }
      })
      const { r, rank_pattern, leave_out } = of(ranks)
      const problems = new Problems()
      const patterns = new ModulePatterns(
        new Map(Object.entries(rank_pattern)),
        'rank_pattern',
        'x',
        problems,
        new Budget(),
      )
      for (const [module, rank] of Object.entries(ranks)) {
        if (rank === 0) expect(leave_out).toContain(module)
        else expect([seed, module, patterns.valueFor(module, r)]).toEqual([seed, module, rank])
      }
    }
  })
})
