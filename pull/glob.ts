// `*` for any characters, `/` among them, and `?` for one: the patterns that Hugging Face's own tools take.

/** Two positions and no backtracking beyond the last star: at most pattern × text steps. */
export function matches(pattern: string, text: string): boolean {
  let at = 0
  let star = -1
  let resume = 0
  for (let to = 0; to < text.length; ) {
    if (pattern[at] === '*') {
      star = at
      resume = to
      at += 1
    } else if (at < pattern.length && (pattern[at] === '?' || pattern[at] === text[to])) {
      at += 1
      to += 1
    } else if (star === -1) return false
    else {
      at = star + 1
      resume += 1
      to = resume
    }
  }
  while (pattern[at] === '*') at += 1
  return at === pattern.length
}
