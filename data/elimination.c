// elimination.c: the baseline that guessing is not. Each key of a row is asked for once, so answers use up the row's
// values: a model that knows which values stand in the row, and strikes out what was an answer already, is right ever
// more often, without knowing which value belongs to which key. "Recalls a third" may be no recall at all.
//
// recall: before the answer n values are left, and the answer is each of them with equal chance. They are n independent
// uniform draws out of K, since which ones are left was decided by the order of the questions alone. So
//     loss(n)     = log n - E log(1 + J),  J ~ Binomial(n - 1, 1/K): how many of the others equal the answer;
//     accuracy(n) = E max / n,             max: how often the most frequent of n draws occurs;
// exact, and the best that can be done without binding. The chance that no value occurs more than m times among n is
// n!/K^n times the coefficient of x^n in (1 + x + x^2/2! + ... + x^m/m!)^K; powers of a series obey Euler's recurrence
// (Knuth, The Art of Computer Programming 2, section 4.7), here for the chances themselves. Its terms are positive for
// n <= K.
//
// khop: the answer is none of the answers before, and not the node that is asked for. Before question q (from 0) that
// node has been an answer with chance q/(n-1): its predecessor by so many hops is any other node with equal chance. The
// strategy takes the rest as equally likely.
#include "data/elimination.h"
#include "lib/numeric.h"
#include "lib/util.h"
#include <stdlib.h>

// E log(1 + J), J ~ Binomial(others, p); none is the chance of J = 0.
static double expected_log(size_t others, double p, double none) {
    double sum = 0, chance = none;
    for (size_t j = 0; j < others; j++) {
        chance *= (double)(others - j) / (double)(j + 1) * (p / (1 - p));
        sum += chance * num_log((double)(j + 2));
        if (chance < 1e-18 && (double)j > (double)others * p) break;
    }
    return sum;
}

// chance[n] of n = 0 .. longest: no value occurs more than `most` times among n draws out of K.
static void chances_at_most(double *chance, size_t longest, size_t K, size_t most) {
    chance[0] = 1;
    for (size_t n = 1; n <= longest; n++) {
        double sum = 0, ways = 1;   // n! / ((n-j)! j! K^j)
        for (size_t j = 1; j <= most && j <= n; j++) {
            ways *= (double)(n - j + 1) / ((double)j * (double)K);
            sum += ((double)j * ((double)K + 1) - (double)n) / (double)n * ways * chance[n - j];
        }
        chance[n] = sum;
    }
}

// most[n] of n = 1 .. longest: how often the most frequent of n draws is expected to occur.
static void expected_most(double *most, size_t longest, size_t K) {
    double *chance = xmalloc((longest + 1) * sizeof *chance);
    for (size_t n = 1; n <= longest; n++) most[n] = 1;
    for (size_t m = 1; m < longest; m++) {
        chances_at_most(chance, longest, K, m);
        for (size_t n = m + 1; n <= longest; n++) most[n] += 1 - chance[n];
        if (1 - chance[longest] < 1e-15) break;
    }
    free(chance);
}

Elimination elimination_recall(size_t pairs, size_t values, bool repeats) {
    double *most = xmalloc((pairs + 1) * sizeof *most), p = 1 / (double)values, none = 1;
    Elimination mean = {0, 0};
    size_t first = repeats ? pairs : 1;
    expected_most(most, pairs, values);
    for (size_t n = 1; n <= pairs; n++) {
        if (n >= first) {
            mean.loss += num_log((double)n) - expected_log(n - 1, p, none);
            mean.accuracy += most[n] / (double)n;
        }
        none *= 1 - p;
    }
    free(most);
    double questions = (double)(pairs - first + 1);
    return (Elimination){mean.loss / questions, mean.accuracy / questions};
}

Elimination elimination_khop(size_t nodes, size_t questions, bool repeats) {
    Elimination mean = {0, 0};
    for (size_t q = 0; q < questions; q++) {
        size_t used = repeats ? 0 : q, left = nodes - used;
        double was = (double)used / (double)(nodes - 1);   // the chance that the node asked for was an answer
        if (left > 1) {
            mean.loss += (1 - was) * num_log((double)(left - 1));
            mean.accuracy += (1 - was) / (double)(left - 1);
        }
        mean.loss += was * num_log((double)left);
        mean.accuracy += was / (double)left;
    }
    return (Elimination){mean.loss / (double)questions, mean.accuracy / (double)questions};
}

char *elimination_about(Elimination e, size_t guesses) {
    return xprintf("; without binding: guessing costs log %zu = %.3f, elimination %.3f and %.1f%% right", guesses,
                   num_log((double)guesses), e.loss, 100 * e.accuracy);
}
