// rank_pattern and alpha_pattern. PEFT treats each key as a regex, `^(.*\.)?(KEY)$` on the module's path; a regex of
// somebody else's never runs here, so keys are literal suffixes, in which "." stands for any character as it does there.
import { type Problems, quote } from '../errors.ts'

const LITERAL = /^[A-Za-z_][\w.]*$/

/** Reports keys that are more than literal suffixes. */
export function checkPatterns(patterns: ReadonlyMap<string, number>, field: string, about: string, problems: Problems) {
  for (const key of patterns.keys()) {
    if (LITERAL.test(key)) continue
    problems.add(
      'adapter-pattern',
      `${about}: ${field} has the key ${quote(key)}; only literal names such as "layers.1.self_attn.q_proj" are ` +
        'supported, so write one key per module',
    )
  }
}

/** The value of the first key, in file order, that matches the module; else `fallback`. */
export function lookUp(patterns: ReadonlyMap<string, number>, module: string, fallback: number): number {
  for (const [key, value] of patterns) if (matchesSuffix(key, module)) return value
  return fallback
}

/** `^(.*\.)?(KEY)$` for a KEY of word characters and dots. */
function matchesSuffix(key: string, module: string): boolean {
  const start = module.length - key.length
  if (start < 0 || (start > 0 && module[start - 1] !== '.')) return false
  for (let i = 0; i < key.length; i += 1) if (key[i] !== '.' && key[i] !== module[start + i]) return false
  return true
}
