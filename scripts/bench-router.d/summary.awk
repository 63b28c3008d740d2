# In: `name us requests`, a line for each measurement. Out: medians, and the ratio of each round.
function median(list, n,    i, j, swap) {
  for (i = 1; i <= n; i++) for (j = i + 1; j <= n; j++)
    if (list[j] < list[i]) { swap = list[i]; list[i] = list[j]; list[j] = swap }
  return list[int((n + 1) / 2)]
}
{ n[$1]++; us[$1, n[$1]] = $2; requests[$1] += $3 }
END {
  rounds = n["router"]
  for (name in n) {
    for (i = 1; i <= rounds; i++) list[i] = us[name, i]
    middle = median(list, rounds)
    printf "%-8s %6.2f us CPU per request (%.2f-%.2f), %.0f requests/s\n", name, middle, list[1], list[rounds], requests[name] / rounds / seconds
  }
  for (i = 1; i <= rounds; i++) {
    best = us["nginx", i] < us["haproxy", i] ? us["nginx", i] : us["haproxy", i]
    list[i] = us["router", i] / best
  }
  middle = median(list, rounds)
  printf "router / better of nginx and HAProxy: median %.2f (%.2f-%.2f) of %d rounds; goal 0.85\n", middle, list[1], list[rounds], rounds
}
